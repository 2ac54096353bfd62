from pathlib import Path
from typing import Any

import pytest

from fedser.client.corpora import utterances
from fedser.client.corpora.base import Listing, Utterance
from fedser.client.corpora.table import Row, Table
from fedser.common.errors import UserError
from tests.client.corpora.conftest import WriteRecordings


def row(file: str = "a.wav", emotion: str = "anger", **others: str) -> Row:
    return {"file": file, "speaker": "01", "emotion": emotion} | others


def table(*rows: Row, folder: Path = Path("corpus")) -> Table:
    return Table.below_header(folder / "list.csv", list(rows))


def from_table(*args: Any, **kwargs: Any) -> list[Utterance]:
    return utterances.from_table(*args, **kwargs).utterances


def test_utterances_are_sorted_and_have_further_columns(write_recordings: WriteRecordings) -> None:
    root = write_recordings("b.wav", "a.wav")
    rows = row("b.wav", age="31"), row("./a.wav", age="", gender="F")
    found = from_table(table(*rows, folder=root), attributes={"language": "de"})
    assert [u.path for u in found] == [root / "a.wav", root / "b.wav"]
    assert found[0].attributes == {"language": "de", "gender": "female"}
    assert found[1].attributes == {"language": "de", "age": "31"}


def test_paths_are_relative_to_root_or_absolute(
    write_recordings: WriteRecordings, tmp_path: Path
) -> None:
    root = write_recordings("audio/a.wav", "b.wav")
    rows = table(row("a.wav"), row(str(root / "b.wav")))
    found = from_table(rows, root=root / "audio", allow_outside=True)
    assert [u.path for u in found] == [root / "audio/a.wav", root / "b.wav"]
    assert [u.path for u in from_table(table(row("audio/../b.wav")), root=root)] == [root / "b.wav"]


def test_files_outside_the_folder_are_rejected_by_row(write_recordings: WriteRecordings) -> None:
    root = write_recordings("audio/a.wav", "b.wav")
    (root / "audio" / "link.wav").symlink_to(root / "b.wav")
    (root / "audio" / "folder").symlink_to(root)
    for file in (str(root / "b.wav"), "../b.wav", "link.wav", "folder/b.wav"):
        with pytest.raises(UserError, match=r"audio file outside the folder .* in row 3: "):
            from_table(table(row("a.wav"), row(file)), root=root / "audio")


@pytest.mark.parametrize(
    ("label", "emotion"),
    [
        ("Anger", "anger"),
        ("angry", "anger"),
        ("HAPPY", "happiness"),
        ("joy", "happiness"),
        ("sad", "sadness"),
        ("Freude", "happiness"),
        ("neutral", "neutral"),
    ],
)
def test_emotion_names_are_mapped(label: str, emotion: str) -> None:
    rows = table(row(emotion=label))
    found = from_table(rows, emotions={"freude": "happiness"}, skip_missing=True)
    assert found[0].emotion == emotion


def test_dropped_rows_are_counted_and_need_no_audio() -> None:
    rows = table(row(emotion="Fear"), row("b.wav", emotion="Fear"))
    named = frozenset({Path("corpus/a.wav"), Path("corpus/b.wav")})
    assert utterances.from_table(rows, emotions={"FEAR": None}) == Listing([], {"Fear": 2}, named)


def test_a_dropped_synonym_has_priority() -> None:
    assert from_table(table(row(emotion="joy")), emotions={"joy": None}) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(), row(file="")], "no file in row 3: fill in the cell"),
        ([row() | {"speaker": ""}], "no speaker in row 2: fill in the cell"),
        ([row(emotion="")] * 7, "no emotion in rows 2, 3, 4, 5, 6 and 2 more: fill in the cell"),
        (
            [row(), row(emotion="Fear"), row(emotion="Fear")],
            "unknown emotion 'Fear' in rows 3, 4: use neutral, happiness, sadness, anger, "
            "or map it in corpus.emotions with corpus=manifest or corpus=audformat",
        ),
        (
            [row("a.wav"), row("b.wav"), row("x/../a.wav")],
            "a.wav is listed more than once in rows 2, 4: keep one row",
        ),
        (
            [row("a.wav", age="27"), row("b.wav", age="old"), row("c.wav", age="old")],
            "age 'old' is not a number of years above 0 in rows 3, 4: "
            "correct it, clear the cell or rename the column",
        ),
        (
            [row(age="-1")],
            "age '-1' is not a number of years above 0 in row 2: "
            "correct it, clear the cell or rename the column",
        ),
        (
            [row("b.wav"), row("c.wav")],
            f"audio file not found (the first is {Path('corpus/b.wav')}) in rows 2, 3: "
            "correct the path or corpus.root, or set corpus.on_bad_file=skip",
        ),
    ],
)
def test_unusable_rows_are_rejected(rows: list[Row], message: str) -> None:
    with pytest.raises(UserError) as error:
        utterances.from_table(table(*rows))
    assert str(error.value) == f"{Path('corpus/list.csv')}: {message}"


def test_a_mapping_to_an_unknown_emotion_is_rejected() -> None:
    with pytest.raises(UserError) as error:
        utterances.from_table(table(row()), emotions={"anger": "rage"})
    assert str(error.value) == (
        "corpus.emotions: 'rage' is not one of neutral, happiness, sadness, anger: "
        "correct it, or set null to drop the rows"
    )
