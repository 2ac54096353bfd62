"""Turn the rows of a table into utterances, refusing what cannot be used."""

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
_NO_VALUES = ("nan", "none", "null")
"""What programs write for a value that is missing."""


def from_table(
    table: Table,
    *,
    root: Path | None = None,
    emotions: Mapping[str, str | None] | None = None,
    attributes: Mapping[str, str] | None = None,
    skip_missing: bool = False,
    allow_outside: bool = False,
) -> Listing:
    """Turn the rows of a table into records, sorted by path; dropped emotions are counted.

    Parameters
    ----------
    root : Path, optional
        Folder that audio paths are relative to; the table's own if not given.
    emotions : Mapping[str, str or None], optional
        What to call an emotion, ``None`` leaving its rows out. Names are compared in lower case;
        ``happy``, ``joy``, ``sad`` and ``angry`` need no entry.
    attributes : Mapping[str, str], optional
        What is known of every row beside the table's further columns.
    skip_missing : bool
        Keep rows whose audio does not exist, for the feature stage to skip and count.
    allow_outside : bool
        Whether rows may name files, or links to files, that do not lie below `root`.

    Raises
    ------
    UserError
        Naming the rows that lack a value, or hold a word such as ``nan`` for it; that have an
        unknown emotion, an ``age`` or a ``gender`` that is none, or two genders of one speaker;
        that name the same file, no file or one outside of the folder.
    """
    numbered = list(zip(table.numbers, table.rows, strict=True))
    for key in REQUIRED:
        empty = [number for number, row in numbered if not row[key]]
        _refuse(f"{table.file}: no {key}", empty, "fill the cell")
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
    records = [
        Utterance(path, row["speaker"], emotion, {**(attributes or {}), **known(row)})
        for _, row, path, emotion in kept
    ]
    left_out = Counter(e for row in table.rows if names[(e := row["emotion"]).lower()] is None)
    in_order = sorted(records, key=lambda utterance: utterance.path)
    return Listing(in_order, left_out, frozenset(paths))


def _check_emotions(
    file: Path, numbered: list[tuple[int, Row]], names: Mapping[str, str | None]
) -> None:
    for emotion, numbers in _by_cell((row["emotion"], number) for number, row in numbered):
        if emotion.lower() not in names:
            _refuse(
                f"{file}: unknown emotion {emotion!r}",
                numbers,
                f"use {', '.join(EMOTIONS)}, or map it in corpus.emotions with corpus=manifest or "
                "corpus=audformat",
            )
    for target in names.values():
        if target is not None and target not in EMOTIONS:
            raise UserError(
                f"corpus.emotions: {target!r} is none of {', '.join(EMOTIONS)}; null drops rows"
            )


def check_attributes(table: Table) -> None:
    """Refuse what a table says of its speakers where it is no value, or two.

    Raises
    ------
    UserError
        Naming the rows with a word such as ``nan``, with an ``age`` or a ``gender`` that is none,
        or with another gender of the speaker.
    """
    numbered = list(zip(table.numbers, table.rows, strict=True))
    _check_words(table.file, numbered)
    _check_ages(table.file, numbered)
    _check_genders(table.file, numbered)


def _check_ages(file: Path, numbered: list[tuple[int, Row]]) -> None:
    for age, numbers in _by_cell((row.get("age", ""), number) for number, row in numbered):
        if age and not is_age(age):
            _refuse(
                f"{file}: age {age!r} is no number of years above 0",
                numbers,
                "correct it, leave the cell empty or rename the column",
            )


def _check_words(file: Path, numbered: list[tuple[int, Row]]) -> None:
    """Refuse what a program wrote for a missing value: it would count as a value of its own."""
    columns = dict.fromkeys(key for _, row in numbered for key in row if key != "emotion")
    for column in columns:
        for word, numbers in _by_cell((row.get(column, ""), number) for number, row in numbered):
            if word.lower() in _NO_VALUES:
                _refuse(
                    f"{file}: {word!r} in the column {column!r}",
                    numbers,
                    "leave the cell empty where nothing is known",
                )


def _check_genders(file: Path, numbered: list[tuple[int, Row]]) -> None:
    """Refuse numbers for genders, and speakers who have several."""
    of_speaker = defaultdict[str, dict[str, list[int]]](lambda: defaultdict(list))
    for number, row in numbered:
        if gender := known(row).get("gender"):
            of_speaker[row["speaker"]][gender].append(number)
            if not any(map(str.isalpha, gender)):
                _refuse(f"{file}: gender {gender!r}", [number], "write female or male (f or m)")
    for speaker, genders in of_speaker.items():
        if len(genders) > 1:
            told = " and ".join(f"{gender} in {_rows(rows)}" for gender, rows in genders.items())
            raise UserError(
                f"{file}: speaker {speaker} is {told}: correct one, or tell the speakers apart"
            )


def _check_inside(file: Path, folder: Path, rows: list[tuple[int, Path]]) -> None:
    """Refuse recordings that lie elsewhere: a table of somebody else's may name any file."""
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
    _refuse(
        f"{file}: file outside of the folder {folder}",
        outside,
        "set corpus.root to a folder that holds all recordings, or corpus.allow_outside=true if "
        "you trust whoever made the table",
    )


def _check_files(file: Path, rows: list[tuple[int, Path]], skip_missing: bool) -> None:
    seen = _by_cell((path, number) for number, path in rows)
    for path, listed in seen:
        if len(listed) > 1:
            _refuse(f"{file}: {path.name} is listed more than once", listed, "keep one row")
    if not skip_missing:
        missing = [(path, listed) for path, listed in seen if not os.path.isfile(path)]
        absent = [number for _, listed in missing for number in listed]
        example = f" (the first is {missing[0][0]})" if missing else ""
        mend = "correct the path or corpus.root, or set corpus.on_bad_file=skip"
        _refuse(f"{file}: audio file not found{example}", absent, mend)


def _by_cell(cells: Iterable[tuple[_Cell, int]]) -> list[tuple[_Cell, list[int]]]:
    """Group the numbers of the rows that say the same."""
    rows = defaultdict(list)
    for cell, number in cells:
        rows[cell].append(number)
    return list(rows.items())


def _refuse(complaint: str, numbers: list[int], mend: str) -> None:
    if numbers:
        raise UserError(f"{complaint} in {_rows(numbers)}: {mend}")


def _rows(numbers: list[int]) -> str:
    """Name the first five rows and count the rest."""
    shown = ", ".join(str(number) for number in numbers[:5])
    rest = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"row{'s' if len(numbers) > 1 else ''} {shown}{rest}"


def known(row: Row) -> dict[str, str]:
    """Return what a row tells of its speaker or its recording; a gender by its whole word."""
    found = {key: cell for key, cell in row.items() if key and cell and key not in REQUIRED}
    if "gender" in found:
        gender = found["gender"].lower()
        found["gender"] = _GENDERS.get(gender, gender)
    return found
