from collections import Counter
from pathlib import Path

import pytest

from fedser.client.corpora.base import Listing
from fedser.client.corpora.iemocap import Iemocap
from fedser.common.errors import UserError
from tests.client.corpora.conftest import WriteLayout

DIALOG = "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"


def listing(
    root: Path,
    dialogs: str = "improvised",
    excitement: str = "happiness",
    on_bad_file: str = "error",
) -> Listing:
    return Iemocap("iemocap", 10, on_bad_file, str(root), dialogs, excitement).listing(root)


def test_improvised_turns_count_excitement_as_happiness(write_layout: WriteLayout) -> None:
    root = write_layout("iemocap")
    found = listing(root)
    counts = Counter((u.speaker, u.emotion) for u in found.utterances)
    assert counts == {
        (speaker, emotion): 2 if emotion == "happiness" else 1
        for speaker in ("Ses01F", "Ses01M", "Ses02F", "Ses02M")
        for emotion in ("neutral", "happiness", "sadness", "anger")
    }
    assert found.left_out == {
        "frustration": 4,
        "no agreement": 4,
        "another emotion": 4,
        "scripted dialog": 4,
    }
    first = found.utterances[0]
    assert first.path == root / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"
    assert (first.speaker, first.emotion) == ("Ses01F", "neutral")
    assert first.attributes == {
        "corpus": "iemocap",
        "language": "en",
        "gender": "female",
        "dialog": "improvised",
    }
    male = [u for u in found.utterances if u.attributes["gender"] == "male"]
    assert {u.speaker for u in male} == {"Ses01M", "Ses02M"}


def test_excitement_can_be_dropped(write_layout: WriteLayout) -> None:
    found = listing(write_layout("iemocap"), excitement="drop")
    assert Counter(u.emotion for u in found.utterances)["happiness"] == 4
    assert found.left_out["excitement"] == 4


@pytest.mark.parametrize(("dialogs", "anger"), [("scripted", 4), ("all", 8)])
def test_dialogs_can_be_selected(write_layout: WriteLayout, dialogs: str, anger: int) -> None:
    found = listing(write_layout("iemocap"), dialogs)
    assert Counter(u.emotion for u in found.utterances)["anger"] == anger
    assert found.left_out.get("improvised dialog", 0) == (32 if dialogs == "scripted" else 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dialogs": "both"},
            "corpus.dialogs=both is not one of improvised, scripted, all",
        ),
        ({"excitement": "keep"}, "corpus.excitement=keep is not one of happiness, drop"),
    ],
)
def test_unknown_options_are_rejected(
    tmp_path: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError) as error:
        listing(tmp_path, **options)
    assert str(error.value) == message


def test_a_missing_turn_is_rejected_or_kept(write_layout: WriteLayout) -> None:
    root = write_layout("iemocap")
    absent = root / "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M001.wav"
    absent.unlink()
    with pytest.raises(UserError) as error:
        listing(root)
    assert str(error.value) == (
        f"{root / DIALOG}: audio file not found (the first is {absent}) in row 9: "
        "correct the path or corpus.root, or set corpus.on_bad_file=skip"
    )
    assert len(listing(root, on_bad_file="skip").utterances) == 20


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\tneu\t", "\tbored\t", "unknown emotion 'bored' in rows 3, 5: use neutral, "),
        (
            "_F000\tneu\t",
            "_X000\tneu\t",
            "row 3 does not have the format of this corpus "
            "('[0.2901 - 0.8357]\\tSes01F_impro01_X000\\tneu\\t[2.5000, 2.5000, 3'): "
            "restore the original file",
        ),
    ],
)
def test_unusable_labels_are_rejected(
    write_layout: WriteLayout, old: str, new: str, message: str
) -> None:
    root = write_layout("iemocap")
    (root / DIALOG).write_text((root / DIALOG).read_text().replace(old, new))
    with pytest.raises(UserError) as error:
        listing(root)
    assert str(error.value).startswith(f"{root / DIALOG}: {message}")
