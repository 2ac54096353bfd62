from collections import Counter
from pathlib import Path

import pytest

from fedser.client.corpora.urdu import Urdu
from fedser.common.errors import UserError
from tests.client.corpora.conftest import WriteLayout


def corpus(root: Path) -> Urdu:
    return Urdu("urdu", 1, "error", str(root))


def test_published_layout_is_read(write_layout: WriteLayout) -> None:
    root = write_layout("urdu")
    found = corpus(root).listing(root).utterances
    assert Counter((u.speaker, u.emotion) for u in found) == {
        ("SM3", "anger"): 2,
        ("SM3", "happiness"): 1,
        ("SM3", "neutral"): 1,
        ("SM3", "sadness"): 1,
        ("SF1", "happiness"): 2,
        ("SM6", "sadness"): 2,
    }
    assert found[0].path == root / "Angry/SM3_F1_A051.wav"
    assert found[0].attributes == {"corpus": "urdu", "language": "ur", "gender": "male"}
    assert {u.attributes["gender"] for u in found if u.speaker == "SF1"} == {"female"}


@pytest.mark.parametrize("name", ["SX1_F1_A01", "SM1_F1_B01", "SM1_A01", "SM1_F1_A01-copy"])
def test_a_file_name_of_another_form_is_rejected(write_layout: WriteLayout, name: str) -> None:
    root = write_layout("urdu")
    (root / "Angry" / f"{name}.wav").touch()
    with pytest.raises(UserError) as error:
        corpus(root).listing(root)
    assert str(error.value) == (
        f"corpus urdu: {root}/Angry/{name}.wav does not have a name like SM1_F1_A01.wav: "
        "restore the original name, move the file away or correct corpus.root"
    )


def test_a_missing_emotion_folder_is_rejected(write_layout: WriteLayout) -> None:
    root = write_layout("urdu")
    (root / "Sad").rename(root / "sad")
    with pytest.raises(UserError) as error:
        corpus(root).listing(root)
    assert str(error.value) == (
        f"corpus urdu: the folder {root} is incomplete (looked for Angry/*.wav, Happy/*.wav, "
        "Neutral/*.wav, Sad/*.wav, found only its angry speech, happy speech, neutral speech): "
        "set corpus.root=<folder of the corpus>; docs/corpora.md describes where to get it"
    )
