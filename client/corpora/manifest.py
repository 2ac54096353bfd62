"""Any corpus that a table describes."""

from dataclasses import dataclass, field
from pathlib import Path

from fedser.client.corpora import table
from fedser.client.corpora import utterances as records
from fedser.client.corpora.base import Listing, Recordings


@dataclass(frozen=True)
class Manifest(Recordings):
    """Recordings named by a CSV or Parquet file; the fields are the keys of ``conf/corpus``.

    Attributes
    ----------
    file : str
        The table: columns for the audio file, the speaker and the emotion; every further column
        becomes an attribute, ``gender`` (``female``, ``male``, ``f`` or ``m``) among them.
    root : str or None
        Folder that audio paths are relative to; None means the table's own.
    columns : dict of str to str
        What the table calls ``file``, ``speaker`` and ``emotion``.
    emotions : dict of str to str or None
        What to call each of the table's emotions; None drops its rows.
    allow_outside : bool
        Whether rows may name files, or links to files, outside of that folder.
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
            If the table or one of its rows is unusable; rows are counted from 1 with the header.
        """
        return records.from_table(
            table.read(Path(self.file), self.columns),
            root=Path(self.root) if self.root is not None else None,
            emotions=self.emotions,
            skip_missing=self.on_bad_file == "skip",
            allow_outside=self.allow_outside,
        )
