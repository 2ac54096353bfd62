"""Read a table that names recordings, from CSV, Parquet or lines of text."""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet

from client.errors import UserError

FILE = "utterances.csv"
"""Name of the table in a corpus folder."""

Row = dict[str, str]
"""One row by column; an empty cell is an empty string."""

REQUIRED = ("file", "speaker", "emotion")
"""Columns that every table has."""


@dataclass(frozen=True)
class Table:
    """The rows of `file`, and their numbers in it, which count the header as row 1."""

    file: Path
    rows: list[Row]
    numbers: list[int]

    @classmethod
    def below_header(cls, file: Path, rows: list[Row]) -> "Table":
        """Number the rows from 2."""
        return cls(file, rows, list(range(2, len(rows) + 2)))


def read(file: Path, columns: Mapping[str, str] | None = None, delimiter: str = ",") -> Table:
    """Read a table.

    Parameters
    ----------
    file : Path
        Parquet if it is called ``.parquet``, else text in UTF-8 with a header line.
    columns : Mapping[str, str], optional
        What the table calls ``file``, ``speaker`` or ``emotion``.

    Returns
    -------
    Table
        With the columns ``file``, ``speaker`` and ``emotion`` under these names, and every other
        column under its own. White space about a cell is removed.

    Raises
    ------
    UserError
        If the table is missing, unreadable or lacks a required column.
    """
    rows = read_rows(file, delimiter)
    names = {key: (columns or {}).get(key, key) for key in REQUIRED}
    for key, column in names.items():
        if column not in rows[0]:
            raise UserError(
                f"{file}: no column {column!r} (there are {', '.join(rows[0])}): "
                f"rename one, or set corpus.columns.{key} with corpus=manifest"
            )
    taken = set(names) | set(names.values())
    renamed = [
        {key: row[column] for key, column in names.items()}
        | {column: cell for column, cell in row.items() if column not in taken}
        for row in rows
    ]
    return Table.below_header(file, renamed)


def read_rows(file: Path, delimiter: str = ",") -> list[Row]:
    """Read the rows of a table whatever its columns; parameters and errors as of `read`."""
    if not file.is_file():
        raise UserError(f"{file}: no such table: correct corpus.file or corpus.root")
    rows = _read_parquet(file) if file.suffix == ".parquet" else _read_text(file, delimiter)
    if not rows:
        raise UserError(f"{file}: the table has no rows")
    return rows


def read_lines(file: Path, start: str, form: re.Pattern[str]) -> Table:
    """Read the lines of a text that begin with `start`; the others say something else.

    Parameters
    ----------
    form : re.Pattern
        What such a line matches, with a group for every column.

    Raises
    ------
    UserError
        If one does not match.
    """
    rows, numbers = [], []
    for number, line in enumerate(file.read_text("utf-8", "replace").splitlines(), 1):
        if not line.startswith(start):
            continue
        if (match := form.match(line)) is None:
            raise UserError(
                f"{file}: row {number} is not of the corpus's form ({line[:60]!r}): "
                "restore the corpus's own file"
            )
        rows.append(match.groupdict())
        numbers.append(number)
    return Table(file, rows, numbers)


def _read_text(file: Path, delimiter: str) -> list[Row]:
    try:
        text = io.StringIO(file.read_text("utf-8-sig").rstrip("\r\n"), newline="")
        header, *rows = list(csv.reader(text, delimiter=delimiter, strict=True)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: not a table ({error}): save it as CSV in UTF-8") from None
    for number, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise UserError(
                f"{file}: row {number} has {len(row)} cells, the header {len(header)}: "
                "quote cells that hold the delimiter"
            )
    names = [column.strip() for column in header]
    return [dict(zip(names, map(str.strip, row), strict=True)) for row in rows]


def _read_parquet(file: Path) -> list[Row]:
    try:
        rows = pyarrow.parquet.read_table(file).to_pylist()
    except pyarrow.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: not a Parquet file ({reason})") from None
    return [{k: "" if v is None else str(v).strip() for k, v in row.items()} for row in rows]
