"""Read a table that names recordings: CSV, Parquet or lines of text."""

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet

from fedser.common.errors import UserError

MAX_BYTES = 2**28
"""Largest table to read, in bytes."""

SEPARATOR_LINE = re.compile(r"sep=(.)", re.IGNORECASE)
"""First line of some spreadsheet exports, which declares the delimiter."""

DELIMITERS = ",;\t"
"""Possible delimiters of cells; the one that yields most header cells is used."""

FILE = "utterances.csv"
"""File name of the table in a corpus folder."""

Row = dict[str, str]
"""Cells of one row by column name; an empty cell is an empty string."""

REQUIRED = ("file", "speaker", "emotion")
"""Columns that every table must have."""


@dataclass(frozen=True)
class Table:
    """The rows of `file` and their numbers in the file; the header is row 1."""

    file: Path
    rows: list[Row]
    numbers: list[int]

    @classmethod
    def below_header(cls, file: Path, rows: list[Row]) -> "Table":
        """Return a table whose rows are numbered from 2."""
        return cls(file, rows, list(range(2, len(rows) + 2)))


def read(file: Path, columns: Mapping[str, str] | None = None) -> Table:
    """Read a table.

    Parameters
    ----------
    file : Path
        Parquet if the suffix is ``.parquet``; otherwise CSV in UTF-8 with a header line and
        commas, semicolons or tabs. Rows without text are skipped, but row numbers count them. A
        first line ``sep=;``, as spreadsheets write it, is skipped and not counted.
    columns : Mapping[str, str], optional
        Names of the columns ``file``, ``speaker`` and ``emotion`` in this table.

    Returns
    -------
    Table
        The columns ``file``, ``speaker`` and ``emotion`` have these names, every other column
        keeps its name. White space around a cell is removed.

    Raises
    ------
    UserError
        If the table is missing or unreadable, lacks a required column, or has two columns of the
        same name.
    """
    found = read_rows(file)
    rows = found.rows
    names = {key: (columns or {}).get(key, key) for key in REQUIRED}
    for key, column in names.items():
        if column not in rows[0]:
            raise UserError(
                f"{file}: no column {column!r} (the columns are {', '.join(rows[0])}): rename a "
                f"column, or set corpus.columns.{key} with corpus=manifest"
            )
    taken = set(names) | set(names.values())
    renamed = [
        {key: row[column] for key, column in names.items()}
        | {column: cell for column, cell in row.items() if column not in taken}
        for row in rows
    ]
    return Table(file, renamed, found.numbers)


def read_rows(file: Path) -> Table:
    """Read the rows of a table with any columns; parameters and errors as in `read`."""
    if not file.is_file():
        raise UserError(f"{file}: table not found: correct the key that names it")
    if file.stat().st_size > MAX_BYTES:
        raise UserError(f"{file}: larger than {MAX_BYTES >> 20} MiB: split it into several corpora")
    found = _read_parquet(file) if file.suffix == ".parquet" else _read_text(file)
    if not found.rows:
        raise UserError(f"{file}: the table has no rows: add one row per recording")
    return found


def read_lines(file: Path, start: str, form: re.Pattern[str]) -> Table:
    """Read the lines of a text file that begin with `start`; ignore all other lines.

    Parameters
    ----------
    form : re.Pattern
        Pattern of these lines, with a named group for every column.

    Raises
    ------
    UserError
        If a line begins with `start` but does not match `form`.
    """
    rows, numbers = [], []
    for number, line in enumerate(file.read_text("utf-8", "replace").splitlines(), 1):
        if not line.startswith(start):
            continue
        if (match := form.match(line)) is None:
            raise UserError(
                f"{file}: row {number} does not have the format of this corpus ({line[:60]!r}): "
                "restore the original file"
            )
        rows.append(match.groupdict())
        numbers.append(number)
    return Table(file, rows, numbers)


def _read_text(file: Path) -> Table:
    try:
        text = file.read_text("utf-8-sig")
        first, _, rest = text.partition("\n")
        if declared := SEPARATOR_LINE.fullmatch(first.rstrip("\r")):
            text, delimiter = rest, declared[1]
        else:
            delimiter = max(DELIMITERS, key=lambda mark: len(_cells(text, mark)))
        header, *rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: not a table ({error}): save it as CSV in UTF-8") from None
    except ValueError:
        raise UserError(f"{file}: the table has no rows: add one row per recording") from None
    names = [column.strip() for column in header]
    _check_names(file, names)
    return _numbered(file, names, [list(map(str.strip, row)) for row in rows])


def _numbered(file: Path, names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return the rows that hold text, without the columns that have no name."""
    filled = [(number, row) for number, row in enumerate(rows, 2) if any(row)]
    for number, row in filled:
        # Spreadsheets may end rows with delimiters that the header does not have.
        if len(row) < len(names) or any(row[len(names) :]):
            raise UserError(
                f"{file}: row {number} has {len(row)} cells but the header has {len(names)}: "
                "put cells that contain the delimiter in quotes"
            )
    return Table(
        file,
        [{n: cell for n, cell in zip(names, row, strict=False) if n} for _, row in filled],
        [number for number, _ in filled],
    )


def _cells(text: str, delimiter: str) -> list[str]:
    """Return the header cells for this delimiter, or an empty list if they cannot be read."""
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []


def _check_names(file: Path, names: Sequence[str]) -> None:
    """Reject two columns of the same name; columns without a name, as of an index, are ignored."""
    for name, count in Counter(filter(None, names)).items():
        if count > 1:
            places = [str(place) for place, other in enumerate(names, 1) if other == name]
            raise UserError(
                f"{file}: row 1 has the column {name!r} {count} times (columns "
                f"{', '.join(places)}): rename or remove all but one"
            )


def _read_parquet(file: Path) -> Table:
    try:
        about = pyarrow.parquet.read_metadata(file)
        names = [name.strip() for name in about.schema.to_arrow_schema().names]
        _check_names(file, names)
        groups = map(about.row_group, range(about.num_row_groups))
        if sum(group.total_byte_size for group in groups) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
        cells = [column.to_pylist() for column in pyarrow.parquet.read_table(file).columns]
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: not a readable Parquet file ({reason}): save it again") from None
    rows = [["" if v is None else str(v).strip() for v in row] for row in zip(*cells, strict=True)]
    return _numbered(file, names, rows)
