"""Any database in audformat, the format of the data sets that audEERING publishes.

References
----------
https://audeering.github.io/audformat/
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml
from iso639 import Lang
from iso639.exceptions import InvalidLanguageValue

from fedser.client.corpora import table
from fedser.client.corpora import utterances as records
from fedser.client.corpora.base import Listing
from fedser.client.corpora.published import Part, Published, Source
from fedser.common.errors import UserError, check_choice

if TYPE_CHECKING:
    import pandas

_HEADER = "db.yaml"
_NO_LABEL = "no label"
TABLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""What a table may be called: no other file is opened for it than ``db.NAME.*``."""


@dataclass(frozen=True)
class Audformat(Published):
    """A database in audformat; the fields are the keys of ``conf/corpus``.

    Attributes
    ----------
    tables, splits : list of str or None
        Those whose emotions are read; None being all.
    emotion, speaker : str
        What the database calls the schemes of these.
    attributes : list of str
        Further schemes that become attributes, as far as the database has them. All three may
        also be names of columns, or of what a scheme's labels tell, as a speaker's ``gender``.
    emotions : dict of str to str or None
        What to call each of the database's emotions; None leaves it out.
    """

    source: ClassVar[Source] = Source(
        title="a database in audformat",
        licence="the database's own, see license in its db.yaml",
        address="https://audeering.github.io/datasets/",
        parts=(Part("header", (_HEADER,), 1), Part("tables", ("db.*.parquet", "db.*.csv"))),
    )

    tables: list[str] | None
    splits: list[str] | None
    emotion: str
    speaker: str
    attributes: list[str]
    emotions: dict[str, str | None]

    def read(self, cache: Path) -> Listing:
        """List the recordings, sorted by path; `cache` is not used.

        Languages are named by two letters, as in other corpora; if the database is in one
        language, every recording is.

        Raises
        ------
        UserError
            If the folder holds no such database, it has not what was asked for, its labels
            contradict each other or are those of segments, or a recording is not there.
        """
        self.files()
        header = Path(self.root) / _HEADER
        database = self._open(header)
        rows = [self._described(row) for row in self._labels(header, database)]
        spoken = [_two_letters(language) for language in database.languages]
        return records.from_table(
            table.Table(header, rows, list(range(1, len(rows) + 1))),
            emotions={**self.emotions, _NO_LABEL: None},
            attributes={"language": spoken[0]} if len(spoken) == 1 else None,
            skip_missing=self.on_bad_file == "skip",
            allow_outside=self.allow_outside,
        )

    def _open(self, header: Path) -> Any:
        """Load the database, which must bring neither code nor pickles along."""
        from audformat import Database  # here: pandas costs what other corpora save

        try:
            # audformat's own loader would run code.
            told = yaml.safe_load(header.read_text("utf-8"))
            for name in (*(told.get("tables") or ()), *(told.get("misc_tables") or ())):
                _check_table(header, str(name))
            return Database.load(str(header.parent))
        except (
            *(yaml.YAMLError, RecursionError, AttributeError),
            *(TypeError, LookupError, ValueError),
        ) as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"{header}: no header of an audformat database ({reason})") from None

    def _labels(self, header: Path, database: Any) -> list[table.Row]:
        """Read what was asked for, a row a recording."""
        for key, chosen, there in (
            ("tables", self.tables, sorted(database.tables)),
            ("splits", self.splits, sorted(database.splits)),
        ):
            for name in chosen or []:
                check_choice(f"corpus.{key}", name, there)
        further = [self.speaker, *self.attributes]
        try:
            labels = database.get(self.emotion, further, tables=self.tables, splits=self.splits)
        except (ValueError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"{header}: {reason}: choose others in corpus.tables") from None
        for key in (self.emotion, self.speaker):
            if labels[key].isna().all():
                raise UserError(
                    f"{header}: nothing is labelled with {key}: choose among the schemes "
                    f"{', '.join(sorted(database.schemes))} by corpus.emotion and corpus.speaker"
                )
        if labels.index.nlevels > 1:
            raise UserError(
                f"{header}: labels are those of segments, and recordings are used as a whole: "
                "choose others in corpus.tables"
            )
        return _texts(labels.reset_index())

    def _described(self, row: table.Row) -> table.Row:
        known = {name: row[name] for name in self.attributes}
        if "language" in known and known["language"]:
            known["language"] = _two_letters(known["language"])
        return {
            "file": row["file"],
            "speaker": row[self.speaker],
            "emotion": row[self.emotion] or _NO_LABEL,
            **known,
        }


def _check_table(header: Path, name: str) -> None:
    """Refuse a table of which audformat would open a pickle, or a file elsewhere."""
    if TABLE.fullmatch(name) is None:
        raise UserError(
            f"{header}: the table {name!r} is not called by letters, digits, '-', '_' and '.': "
            "rename it"
        )
    files = sorted(header.parent.glob(f"db.{name}.*"))
    for file in files:
        if file.suffix == ".pkl":
            raise UserError(
                f"{file}: pickled tables are not opened: remove db.*.pkl, and save tables as "
                "Parquet or CSV if there are no others"
            )
        if file.is_symlink() or not file.is_file():
            raise UserError(f"{file}: not a regular file: put the table itself there")


def _texts(labels: "pandas.DataFrame") -> list[table.Row]:
    """Write every cell as a text, a missing one as an empty text and 31.0 as 31."""
    whole = labels.convert_dtypes().astype("string").fillna("")
    return [{str(key): cell for key, cell in row.items()} for row in whole.to_dict("records")]


def _two_letters(language: str) -> str:
    """Return the code of ISO 639-1, or the language as it is called if it has none."""
    try:
        return Lang(language).pt1 or language
    except InvalidLanguageValue:
        return language
