from collections import Counter
from pathlib import Path

import pytest

from fedser.client.corpora.base import Listing
from fedser.client.corpora.msp_improv import MspImprov
from fedser.common.errors import UserError
from tests.client.corpora.conftest import WriteLayout


def listing(root: Path, on_bad_file: str = "error") -> Listing:
    return MspImprov("msp_improv", 10, on_bad_file, str(root)).listing(root)


def test_only_improvised_turns_are_read(write_layout: WriteLayout) -> None:
    root = write_layout("msp_improv")
    found = listing(root)
    assert Counter((u.speaker, u.emotion) for u in found.utterances) == {
        (speaker, emotion): 2  # of the kinds S and T
        for speaker in ("F01", "M01", "F02", "M02")
        for emotion in ("neutral", "happiness", "sadness", "anger")
    }
    assert found.left_out == {
        "natural interaction": 24,
        "read sentence": 24,
        "no agreement": 8,
        "another emotion": 8,
    }
    assert {u.path.parent.name for u in found.utterances} == {"S", "T"}
    first = found.utterances[0]
    assert first.path == root / "Audio/session1/S01N/S/MSP-IMPROV-S01N-F01-S-FM01.wav"
    assert first.attributes == {
        "corpus": "msp_improv",
        "language": "en",
        "gender": "female",
        "sentence": "01",
    }
    of = {u.speaker: u.attributes["gender"] for u in found.utterances}
    assert of == {"F01": "female", "M01": "male", "F02": "female", "M02": "male"}


def test_sessions_may_lie_next_to_the_label_file(write_layout: WriteLayout) -> None:
    root = write_layout("msp_improv")
    for session in (root / "Audio").iterdir():
        session.rename(root / session.name)
    (root / "Evalution.txt").rename(root / "Evaluation.txt")
    assert len(listing(root).utterances) == 32


def test_a_missing_turn_is_rejected_or_kept(write_layout: WriteLayout) -> None:
    root = write_layout("msp_improv")
    absent = root / "Audio/session2/S02S/T/MSP-IMPROV-S02S-M02-T-FM02.wav"
    absent.unlink()
    with pytest.raises(UserError) as error:
        listing(root)
    assert str(error.value) == (
        f"{root}/Evalution.txt: audio file not found (the first is {absent}) in row 274: "
        "correct the path or corpus.root, or set corpus.on_bad_file=skip"
    )
    assert len(listing(root, on_bad_file="skip").utterances) == 32


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("-S-FM01.avi; N;", "-S-FM01.avi; Q;", "unknown emotion 'Q' in rows 37, 109, 181, 253: "),
        (
            "-F01-P-FM02",
            "-F11-P-FM02",
            "row 4 does not have the format of this corpus ('UTD-IMPROV-S02S-F11",
        ),
    ],
)
def test_unusable_labels_are_rejected(
    write_layout: WriteLayout, old: str, new: str, message: str
) -> None:
    file = write_layout("msp_improv") / "Evalution.txt"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(UserError) as error:
        listing(file.parent)
    assert str(error.value).startswith(f"{file}: {message}")
