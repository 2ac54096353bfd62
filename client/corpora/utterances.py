"""Convert the rows of a table into utterances; reject rows that cannot be used."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from fedser.client.corpora.ages import is_age
from fedser.client.corpora.base import EMOTIONS, Listing, Utterance
from fedser.client.corpora.table import REQUIRED, Row, Table
from fedser.common.errors import UserError

_Cell = TypeVar("_Cell")
_NAMES: dict[str, str | None] = {
    **{emotion: emotion for emotion in EMOTIONS},
    "happy": "happiness",
    "joy": "happiness",
    "sad": "sadness",
    "angry": "anger",
}
_GENDERS = {"f": "female", "m": "male"}
_MISSING_WORDS = ("nan", "none", "null")
"""Words that programs write for a missing value."""


def from_table(
    table: Table,
    *,
    root: Path | None = None,
    emotions: Mapping[str, str | None] | None = None,
    attributes: Mapping[str, str] | None = None,
    skip_missing: bool = False,
    allow_outside: bool = False,
) -> Listing:
    """Convert the rows of a table into utterances, sorted by path; count the dropped emotions.

    Parameters
    ----------
    root : Path, optional
        Folder of the audio paths; by default the folder of the table.
    emotions : Mapping[str, str or None], optional
        One of `EMOTIONS` for each emotion name of the table; ``None`` drops the rows. Names are
        compared in lower case; ``happy``, ``joy``, ``sad`` and ``angry`` need no entry.
    attributes : Mapping[str, str], optional
        Attributes of every utterance, in addition to the further columns of the table.
    skip_missing : bool
        Keep rows without an audio file: feature extraction skips and counts them.
    allow_outside : bool
        Whether rows may name files, or links to files, outside `root`.

    Raises
    ------
    UserError
        If a row lacks a value, holds a word such as ``nan`` instead of a value, or has an unknown
        emotion, an invalid ``age`` or ``gender``; if a speaker has two genders; if a file is
        missing, named twice or outside `root`. The message names the rows.
    """
    numbered = list(zip(table.numbers, table.rows, strict=True))
    for key in REQUIRED:
        empty = [number for number, row in numbered if not row[key]]
        _reject(f"{table.file}: no {key}", empty, "fill in the cell")
    names = _NAMES | {name.lower(): emotion for name, emotion in (emotions or {}).items()}
    _check_emotions(table.file, numbered, names)
    folder = root or table.file.parent
    paths = [Path(os.path.normpath(folder / row["file"])) for row in table.rows]
    kept = [
        (number, row, path, emotion)
        for (number, row), path in zip(numbered, paths, strict=True)
        if (emotion := names[row["emotion"].lower()]) is not None
    ]
    check_attributes(
        Table(table.file, [row for _, row, _, _ in kept], [number for number, *_ in kept])
    )
    rows = [(number, path) for number, _, path, _ in kept]
    if not allow_outside:
        _check_inside(table.file, folder, rows)
    _check_files(table.file, rows, skip_missing)
    utterances = [
        Utterance(path, row["speaker"], emotion, {**(attributes or {}), **row_attributes(row)})
        for _, row, path, emotion in kept
    ]
    left_out = Counter(e for row in table.rows if names[(e := row["emotion"]).lower()] is None)
    utterances.sort(key=lambda utterance: utterance.path)
    return Listing(utterances, left_out, frozenset(paths))


def _check_emotions(
    file: Path, numbered: list[tuple[int, Row]], names: Mapping[str, str | None]
) -> None:
    for emotion, numbers in _by_cell((row["emotion"], number) for number, row in numbered):
        if emotion.lower() not in names:
            _reject(
                f"{file}: unknown emotion {emotion!r}",
                numbers,
                f"use {', '.join(EMOTIONS)}, or map it in corpus.emotions with corpus=manifest or "
                "corpus=audformat",
            )
    for target in names.values():
        if target is not None and target not in EMOTIONS:
            raise UserError(
                f"corpus.emotions: {target!r} is not one of {', '.join(EMOTIONS)}: "
                "correct it, or set null to drop the rows"
            )


def check_attributes(table: Table) -> None:
    """Reject missing, invalid and contradicting attributes of speakers.

    Raises
    ------
    UserError
        If a row has a word such as ``nan`` for a missing value, or an invalid ``age`` or
        ``gender``, or if a speaker has two genders. The message names the rows.
    """
    numbered = list(zip(table.numbers, table.rows, strict=True))
    _check_missing_words(table.file, numbered)
    _check_ages(table.file, numbered)
    _check_genders(table.file, numbered)


def _check_ages(file: Path, numbered: list[tuple[int, Row]]) -> None:
    for age, numbers in _by_cell((row.get("age", ""), number) for number, row in numbered):
        if age and not is_age(age):
            _reject(
                f"{file}: age {age!r} is not a number of years above 0",
                numbers,
                "correct it, clear the cell or rename the column",
            )


def _check_missing_words(file: Path, numbered: list[tuple[int, Row]]) -> None:
    """Reject words for missing values: they would count as values."""
    columns = dict.fromkeys(key for _, row in numbered for key in row if key != "emotion")
    for column in columns:
        for word, numbers in _by_cell((row.get(column, ""), number) for number, row in numbered):
            if word.lower() in _MISSING_WORDS:
                _reject(
                    f"{file}: {word!r} in the column {column!r}",
                    numbers,
                    "clear the cell if the value is not known",
                )


def _check_genders(file: Path, numbered: list[tuple[int, Row]]) -> None:
    """Reject genders without a letter, such as 1, and speakers with several genders."""
    by_speaker = defaultdict[str, dict[str, list[int]]](lambda: defaultdict(list))
    for number, row in numbered:
        if gender := row_attributes(row).get("gender"):
            by_speaker[row["speaker"]][gender].append(number)
            if not any(map(str.isalpha, gender)):
                _reject(
                    f"{file}: gender {gender!r} is not a word",
                    [number],
                    "write female or male (f or m)",
                )
    for speaker, genders in by_speaker.items():
        if len(genders) > 1:
            places = " and ".join(f"{gender} in {_rows(rows)}" for gender, rows in genders.items())
            raise UserError(
                f"{file}: speaker {speaker} is {places}: correct the gender, "
                "or give two speakers two names"
            )


def _check_inside(file: Path, folder: Path, rows: list[tuple[int, Path]]) -> None:
    """Reject recordings outside the folder: a table from a stranger may name any file."""
    given, real = Path(os.path.normpath(folder)), os.path.realpath(folder)
    inside = dict[Path, bool]()
    outside = []
    for number, path in rows:
        if path.parent not in inside:
            below = Path(os.path.realpath(path.parent)).is_relative_to(real)
            inside[path.parent] = below and path.is_relative_to(given)
        if not inside[path.parent] or (
            os.path.islink(path) and not Path(os.path.realpath(path)).is_relative_to(real)
        ):
            outside.append(number)
    _reject(
        f"{file}: audio file outside the folder {folder}",
        outside,
        "set corpus.root to a folder that contains all recordings, or set "
        "corpus.allow_outside=true if you trust the author of the table",
    )


def _check_files(file: Path, rows: list[tuple[int, Path]], skip_missing: bool) -> None:
    seen = _by_cell((path, number) for number, path in rows)
    for path, listed in seen:
        if len(listed) > 1:
            _reject(f"{file}: {path.name} is listed more than once", listed, "keep one row")
    if not skip_missing:
        missing = [(path, listed) for path, listed in seen if not os.path.isfile(path)]
        absent = [number for _, listed in missing for number in listed]
        example = f" (the first is {missing[0][0]})" if missing else ""
        remedy = "correct the path or corpus.root, or set corpus.on_bad_file=skip"
        _reject(f"{file}: audio file not found{example}", absent, remedy)


def _by_cell(cells: Iterable[tuple[_Cell, int]]) -> list[tuple[_Cell, list[int]]]:
    """Return each distinct cell with the numbers of its rows."""
    rows = defaultdict(list)
    for cell, number in cells:
        rows[cell].append(number)
    return list(rows.items())


def _reject(problem: str, numbers: list[int], remedy: str) -> None:
    if numbers:
        raise UserError(f"{problem} in {_rows(numbers)}: {remedy}")


def _rows(numbers: list[int]) -> str:
    """Return a text with the first five row numbers and the count of the others."""
    shown = ", ".join(str(number) for number in numbers[:5])
    rest = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"row{'s' if len(numbers) > 1 else ''} {shown}{rest}"


def row_attributes(row: Row) -> dict[str, str]:
    """Return the attributes in the further columns of a row; ``f`` and ``m`` become words."""
    found = {key: cell for key, cell in row.items() if key and cell and key not in REQUIRED}
    if "gender" in found:
        gender = found["gender"].lower()
        found["gender"] = _GENDERS.get(gender, gender)
    return found
