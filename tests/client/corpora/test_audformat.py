from collections import Counter
from pathlib import Path
from typing import Any

import audformat
import pytest

from fedser.client.corpora.audformat import Audformat
from fedser.client.corpora.base import Listing
from fedser.common.errors import UserError
from tests.client.corpora.conftest import WriteLayout

DEFAULTS: dict[str, Any] = {
    "tables": None,
    "splits": None,
    "emotion": "emotion",
    "speaker": "speaker",
    "attributes": ["gender", "age", "language", "accent"],
    "emotions": {"boredom": None},
}


def listing(root: Path, on_bad_file: str = "error", **changes: Any) -> Listing:
    return Audformat("made", 1, on_bad_file, str(root), **{**DEFAULTS, **changes}).listing(root)


def test_all_tables_are_read_by_default(write_layout: WriteLayout) -> None:
    root = write_layout("audformat")
    found = listing(root)
    assert [(u.path, u.speaker, u.emotion) for u in found.utterances] == [
        (root / "audio/test-0.wav", "s1", "anger"),
        (root / "audio/test-2.wav", "s1", "happiness"),
        (root / "audio/test-3.wav", "s2", "happiness"),
        (root / "audio/train-0.wav", "s1", "happiness"),
        (root / "audio/train-1.wav", "s2", "anger"),
        (root / "audio/train-2.wav", "s1", "neutral"),
    ]
    assert found.left_out == {"boredom": 1, "no label": 1}
    known = {u.speaker: dict(u.attributes) for u in found.utterances}
    assert known == {
        "s1": {"corpus": "made", "language": "de", "gender": "female", "age": "31"},
        "s2": {"corpus": "made", "language": "tr", "gender": "male"},
    }


@pytest.mark.parametrize("chosen", [{"splits": ["train"]}, {"tables": ["emotion.train"]}])
def test_splits_and_tables_can_be_selected(
    write_layout: WriteLayout, chosen: dict[str, Any]
) -> None:
    found = listing(write_layout("audformat"), **chosen)
    assert Counter(u.path.name[:5] for u in found.utterances) == {"train": 3}


def test_emotions_are_mapped(write_layout: WriteLayout) -> None:
    found = listing(write_layout("audformat"), emotions={"boredom": "sadness", "joy": None})
    assert Counter(u.emotion for u in found.utterances) == {"sadness": 1, "anger": 2, "neutral": 1}
    assert found.left_out == {"joy": 3, "no label": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tables": ["emotions"]}, "corpus.tables=emotions is not one of emotion.test, emotion.tr"),
        ({"splits": ["dev"]}, "corpus.splits=dev is not one of test, train"),
        (
            {"emotion": "mood"},
            "no recording is labelled with mood: choose corpus.emotion and corpus.speaker among "
            "the schemes emotion, s",
        ),
        (
            {"speaker": "who"},
            "no recording is labelled with who: choose corpus.emotion and corpus.speaker among "
            "the schemes emotion, sp",
        ),
        ({"emotions": {}}, "unknown emotion 'boredom' in row 2: use neutral, happiness, sadness, "),
    ],
)
def test_unknown_names_are_rejected(
    write_layout: WriteLayout, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        listing(write_layout("audformat"), **changes)


def test_missing_recordings_are_rejected_or_kept(write_layout: WriteLayout) -> None:
    root = write_layout("audformat")
    (root / "audio/train-0.wav").unlink()
    with pytest.raises(UserError, match=r"not found \(the first is .*/audio/train-0\.wav\) in row"):
        listing(root)
    assert len(listing(root, on_bad_file="skip").utterances) == 6


def test_contradicting_labels_are_rejected(write_layout: WriteLayout) -> None:
    root = write_layout("audformat")
    add_table(root, audformat.filewise_index(["audio/train-1.wav"]))
    with pytest.raises(UserError) as error:
        listing(root)
    assert str(error.value) == (
        f"{root}/db.yaml: Found overlapping data in column 'emotion': left right file "
        "audio/train-1.wav anger joy: choose other tables in corpus.tables"
    )


def test_labels_of_segments_are_rejected(write_layout: WriteLayout) -> None:
    root = write_layout("audformat")
    add_table(root, audformat.segmented_index(["audio/train-1.wav"], ["0.1s"], ["0.2s"]))
    with pytest.raises(UserError) as error:
        listing(root)
    assert str(error.value) == (
        f"{root}/db.yaml: labels of segments are not supported, only labels of whole recordings: "
        "choose other tables in corpus.tables"
    )
    assert len(listing(root, tables=["emotion.train"]).utterances) == 3


def add_table(root: Path, index: Any) -> None:
    """Add a table that labels one recording or segment with joy."""
    made = audformat.Database.load(str(root))
    made["more"] = audformat.Table(index)
    made["more"]["emotion"] = audformat.Column(scheme_id="emotion")
    made["more"]["emotion"].set(["joy"])
    made.save(str(root))


def test_pickled_tables_are_rejected(write_layout: WriteLayout) -> None:
    root = write_layout("audformat")
    (root / "db.files.pkl").write_bytes(b"")
    with pytest.raises(UserError) as error:
        listing(root)
    assert str(error.value) == (
        f"{root}/db.files.pkl: pickled tables are not supported: save the tables as Parquet or CSV "
        "and remove db.*.pkl"
    )


@pytest.mark.parametrize(
    "header", ["a: [", "a: 1", "", "name: x", "a: !!python/object/apply:os.system ['exit 3']"]
)
def test_unusable_headers_are_rejected(write_layout: WriteLayout, header: str) -> None:
    root = write_layout("audformat")
    (root / "db.yaml").write_text(header)
    with pytest.raises(UserError, match=r"db\.yaml: not a header of an audformat database \(") as e:
        listing(root)
    assert "\n" not in str(e.value)


def test_a_missing_table_is_rejected(write_layout: WriteLayout) -> None:
    root = write_layout("audformat")
    (root / "db.emotion.test.parquet").unlink()
    with pytest.raises(UserError, match="No file found for table with path"):
        listing(root)
