"""Any database in audformat, the format of the data sets published by audEERING.

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

from fedser.client.corpora import table, utterances
from fedser.client.corpora.base import Listing
from fedser.client.corpora.published import Part, Published, Source
from fedser.common.errors import UserError, check_choice

if TYPE_CHECKING:
    import pandas

_HEADER = "db.yaml"
_NO_LABEL = "no label"
TABLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""Allowed names of tables: only files ``db.NAME.*`` are opened."""


@dataclass(frozen=True)
class Audformat(Published):
    """A database in audformat; the fields are the keys of ``conf/corpus``.

    Attributes
    ----------
    tables, splits : list of str or None
        Tables and splits to read; None reads all.
    emotion, speaker : str
        Names of the schemes of emotions and speakers in the database.
    attributes : list of str
        Further schemes that become attributes, if the database has them. Each name of a scheme
        may also be the name of a column, or of a field of a scheme's labels, such as ``gender``.
    emotions : dict of str to str or None
        Emotion class for each emotion name of the database; None leaves it out.
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

        Languages become two letters, as in other corpora. If the database has one language, every
        recording gets it.

        Raises
        ------
        UserError
            If the folder contains no such database, if a table, split or scheme is missing, if
            labels contradict each other or belong to segments, or if a recording is missing.
        """
        self.files()
        header = Path(self.root) / _HEADER
        database = self._open(header)
        rows = [self._described(row) for row in self._labels(header, database)]
        languages = [_two_letters(language) for language in database.languages]
        return utterances.from_table(
            table.Table(header, rows, list(range(1, len(rows) + 1))),
            emotions={**self.emotions, _NO_LABEL: None},
            attributes={"language": languages[0]} if len(languages) == 1 else None,
            skip_missing=self.on_bad_file == "skip",
            allow_outside=self.allow_outside,
        )

    def _open(self, header: Path) -> Any:
        """Load the database; reject code and pickles in it."""
        from audformat import Database  # imported here: it imports pandas, which is slow

        try:
            # audformat's own YAML loader would run code in the header.
            content = yaml.safe_load(header.read_text("utf-8"))
            for name in (*(content.get("tables") or ()), *(content.get("misc_tables") or ())):
                _check_table(header, str(name))
            return Database.load(str(header.parent))
        except (
            *(yaml.YAMLError, RecursionError, AttributeError),
            *(TypeError, LookupError, ValueError),
        ) as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(
                f"{header}: not a header of an audformat database ({reason}): restore it"
            ) from None

    def _labels(self, header: Path, database: Any) -> list[table.Row]:
        """Read the emotion, the speaker and the attributes: one row per recording."""
        for key, chosen, available in (
            ("tables", self.tables, sorted(database.tables)),
            ("splits", self.splits, sorted(database.splits)),
        ):
            for name in chosen or []:
                check_choice(f"corpus.{key}", name, available)
        further = [self.speaker, *self.attributes]
        try:
            labels = database.get(self.emotion, further, tables=self.tables, splits=self.splits)
        except (ValueError, TypeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(f"{header}: {reason}: choose other tables in corpus.tables") from None
        for key in (self.emotion, self.speaker):
            if labels[key].isna().all():
                raise UserError(
                    f"{header}: no recording is labelled with {key}: choose corpus.emotion and "
                    f"corpus.speaker among the schemes {', '.join(sorted(database.schemes))}"
                )
        if labels.index.nlevels > 1:
            raise UserError(
                f"{header}: labels of segments are not supported, only labels of whole recordings: "
                "choose other tables in corpus.tables"
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
    """Reject a table if audformat would open a pickle, or a file elsewhere, for it."""
    if TABLE.fullmatch(name) is None:
        raise UserError(
            f"{header}: the table name {name!r} may contain only letters, digits, '-', '_' and "
            "'.', and no '-' or '.' at the start: rename the table"
        )
    files = sorted(header.parent.glob(f"db.{name}.*"))
    for file in files:
        if file.suffix == ".pkl":
            raise UserError(
                f"{file}: pickled tables are not supported: save the tables as Parquet or CSV and "
                "remove db.*.pkl"
            )
        if file.is_symlink() or not file.is_file():
            raise UserError(f"{file}: not a regular file: replace it by the table itself")


def _texts(labels: "pandas.DataFrame") -> list[table.Row]:
    """Convert every cell to text: a missing cell to an empty text, 31.0 to 31."""
    whole = labels.convert_dtypes().astype("string").fillna("")
    return [{str(key): cell for key, cell in row.items()} for row in whole.to_dict("records")]


def _two_letters(language: str) -> str:
    """Return the ISO 639-1 code of a language, or the given text if there is none."""
    try:
        return Lang(language).pt1 or language
    except InvalidLanguageValue:
        return language
