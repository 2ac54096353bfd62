"""Turn the rows of a table into utterances, refusing what cannot be used."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from client.corpora.ages import is_age
from client.corpora.base import EMOTIONS, Listing, Utterance
from client.corpora.table import REQUIRED, Row, Table
from client.errors import UserError

_Cell = TypeVar("_Cell")
_NAMES: dict[str, str | None] = {
    **{emotion: emotion for emotion in EMOTIONS},
    "happy": "happiness",
    "joy": "happiness",
    "sad": "sadness",
    "angry": "anger",
}
_GENDERS = {"f": "female", "m": "male"}


def from_table(
    table: Table,
    *,
    root: Path | None = None,
    emotions: Mapping[str, str | None] | None = None,
    attributes: Mapping[str, str] | None = None,
    skip_missing: bool = False,
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

    Raises
    ------
    UserError
        Naming the rows that lack a value, have an unknown emotion or an ``age`` that is none,
        name the same file or name no file.
    """
    numbered = list(zip(table.numbers, table.rows, strict=True))
    for key in REQUIRED:
        empty = [number for number, row in numbered if not row[key]]
        _refuse(f"{table.file}: no {key}", empty, "fill the cell")
    names = _NAMES | {name.lower(): emotion for name, emotion in (emotions or {}).items()}
    _check_emotions(table.file, numbered, names)
    kept = [
        (number, row, emotion)
        for number, row in numbered
        if (emotion := names[row["emotion"].lower()]) is not None
    ]
    _check_ages(table.file, [(number, row) for number, row, _ in kept])
    folder = root or table.file.parent
    paths = [Path(os.path.normpath(folder / row["file"])) for _, row, _ in kept]
    _check_files(table.file, [number for number, _, _ in kept], paths, skip_missing)
    records = [
        Utterance(path, row["speaker"], emotion, {**(attributes or {}), **_attributes(row)})
        for path, (_, row, emotion) in zip(paths, kept, strict=True)
    ]
    left_out = Counter(e for row in table.rows if names[(e := row["emotion"]).lower()] is None)
    return Listing(sorted(records, key=lambda utterance: utterance.path), left_out)


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


def _check_ages(file: Path, numbered: list[tuple[int, Row]]) -> None:
    for age, numbers in _by_cell((row.get("age", ""), number) for number, row in numbered):
        if age and not is_age(age):
            _refuse(
                f"{file}: age {age!r} is no number of years above 0",
                numbers,
                "correct it, leave the cell empty or rename the column",
            )


def _check_files(file: Path, numbers: list[int], paths: list[Path], skip_missing: bool) -> None:
    seen = _by_cell(zip(paths, numbers, strict=True))
    for path, listed in seen:
        if len(listed) > 1:
            _refuse(f"{file}: {path.name} is listed more than once", listed, "keep one row")
    if not skip_missing:
        missing = [(path, listed) for path, listed in seen if not path.is_file()]
        rows = [number for _, listed in missing for number in listed]
        example = f" (the first is {missing[0][0]})" if missing else ""
        mend = "correct the path or corpus.root, or set corpus.on_bad_file=skip"
        _refuse(f"{file}: audio file not found{example}", rows, mend)


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


def _attributes(row: Row) -> dict[str, str]:
    found = {key: cell for key, cell in row.items() if key and cell and key not in REQUIRED}
    if "gender" in found:
        gender = found["gender"].lower()
        found["gender"] = _GENDERS.get(gender, gender)
    return found
