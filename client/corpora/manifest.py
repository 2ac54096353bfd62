"""Any corpus that a table lists."""

from dataclasses import dataclass, field
from pathlib import Path

from fedser.client.corpora import table, utterances
from fedser.client.corpora.base import Listing, SelectableCorpus


@dataclass(frozen=True)
class Manifest(SelectableCorpus):
    """Recordings listed in a CSV or Parquet file; the fields are the keys of ``conf/corpus``.

    Attributes
    ----------
    file : str
        Table with columns for the audio file, the speaker and the emotion. Every further column
        becomes an attribute, for example ``gender`` (``female``, ``male``, ``f`` or ``m``).
    root : str or None
        Folder of the audio paths; None means the folder of the table.
    columns : dict of str to str
        Names of the columns ``file``, ``speaker`` and ``emotion`` in the table.
    emotions : dict of str to str or None
        Emotion class for each emotion name of the table; None drops its rows.
    allow_outside : bool
        Whether rows may name files, or links to files, outside the folder.
    """

    file: str
    root: str | None
    columns: dict[str, str]
    emotions: dict[str, str | None]
    allow_outside: bool = field(default=False, kw_only=True)

    def read(self, cache: Path) -> Listing:
        """List the recordings, sorted by path; `cache` is not used.

        Raises
        ------
        UserError
            If the table or one of its rows is unusable; the header is row 1.
        """
        return utterances.from_table(
            table.read(Path(self.file), self.columns),
            root=Path(self.root) if self.root is not None else None,
            emotions=self.emotions,
            skip_missing=self.on_bad_file == "skip",
            allow_outside=self.allow_outside,
        )
