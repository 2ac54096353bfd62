"""Read a table that names recordings, from CSV, Parquet or lines of text."""

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

MOST_BYTES = 2**28
"""Of a table."""

SEPARATOR = re.compile(r"sep=(.)", re.IGNORECASE)

DELIMITERS = ",;\t"
"""What may stand between cells; the one that cuts the header into most cells does."""

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


def read(file: Path, columns: Mapping[str, str] | None = None) -> Table:
    """Read a table.

    Parameters
    ----------
    file : Path
        Parquet if it is called ``.parquet``, else text in UTF-8 with a header line: CSV with
        commas, semicolons or tabs. Rows without any text, and a first line ``sep=;`` as
        spreadsheets write it, are no rows; they are counted in the numbers of rows, the line not.
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
        If the table is missing, unreadable or lacks a required column, or if two columns have one
        name.
    """
    found = read_rows(file)
    rows = found.rows
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
    return Table(file, renamed, found.numbers)


def read_rows(file: Path) -> Table:
    """Read the rows of a table whatever its columns; parameters and errors as of `read`."""
    if not file.is_file():
        raise UserError(f"{file}: no such table: correct corpus.file or corpus.root")
    if file.stat().st_size > MOST_BYTES:
        raise UserError(f"{file}: larger than {MOST_BYTES >> 20} MiB: cut it into several corpora")
    found = _read_parquet(file) if file.suffix == ".parquet" else _read_text(file)
    if not found.rows:
        raise UserError(f"{file}: the table has no rows")
    return found


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


def _read_text(file: Path) -> Table:
    try:
        text = file.read_text("utf-8-sig")
        first, _, rest = text.partition("\n")
        if declared := SEPARATOR.fullmatch(first.rstrip("\r")):
            text, delimiter = rest, declared[1]
        else:
            delimiter = max(DELIMITERS, key=lambda mark: len(_cells(text, mark)))
        header, *rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: not a table ({error}): save it as CSV in UTF-8") from None
    except ValueError:
        raise UserError(f"{file}: the table has no rows") from None
    names = [column.strip() for column in header]
    _check_names(file, names)
    return _numbered(file, names, [list(map(str.strip, row)) for row in rows])


def _numbered(file: Path, names: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return the rows that hold a text, without columns that have no name."""
    filled = [(number, row) for number, row in enumerate(rows, 2) if any(row)]
    for number, row in filled:
        # Spreadsheets end rows with delimiters, also where the header has none.
        if len(row) < len(names) or any(row[len(names) :]):
            raise UserError(
                f"{file}: row {number} has {len(row)} cells, the header {len(names)}: "
                "quote cells that hold the delimiter"
            )
    return Table(
        file,
        [{n: cell for n, cell in zip(names, row, strict=False) if n} for _, row in filled],
        [number for number, _ in filled],
    )


def _cells(text: str, delimiter: str) -> list[str]:
    """Return the cells of the header as this delimiter cuts it; none where it cannot."""
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True), [])
    except csv.Error:
        return []


def _check_names(file: Path, names: Sequence[str]) -> None:
    """Refuse two columns of one name. One without a name, as of an index, says nothing."""
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
        if sum(group.total_byte_size for group in groups) > MOST_BYTES:
            raise ValueError(f"larger than {MOST_BYTES >> 20} MiB")
        cells = [column.to_pylist() for column in pyarrow.parquet.read_table(file).columns]
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: not a Parquet file ({reason})") from None
    rows = [["" if v is None else str(v).strip() for v in row] for row in zip(*cells, strict=True)]
    return _numbered(file, names, rows)
