from collections import Counter
from pathlib import Path

import pytest

from fedser.client.corpora.emodb import Emodb
from fedser.common.errors import UserError
from tests.client.corpora.conftest import WriteRecordings


def corpus(root: Path) -> Emodb:
    return Emodb("emodb", root=str(root), shards=4, on_bad_file="error")


def test_published_layout_is_read(write_recordings: WriteRecordings, tmp_path: Path) -> None:
    root = write_recordings(
        *(f"wav/{speaker}a01{letter}b.wav" for speaker in ("08", "03") for letter in "WLEAFTN")
    )
    found = corpus(root).listing(tmp_path).utterances

    assert [(u.speaker, u.emotion) for u in found] == [
        (speaker, emotion)
        for speaker in ("03", "08")
        for emotion in ("happiness", "neutral", "sadness", "anger")
    ]
    assert found[0].path == root / "wav/03a01Fb.wav"
    assert found[0].attributes == {
        "corpus": "emodb",
        "gender": "male",
        "age": "31",
        "language": "de",
        "sentence": "a01",
    }
    assert found[-1].attributes["gender"] == "female"
    assert found[-1].attributes["age"] == "34"


@pytest.mark.parametrize("name", ["03a01Xb", "04a01Wb", "03a01W"])
def test_a_file_name_of_another_form_is_rejected(
    write_recordings: WriteRecordings, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UserError, match=rf"{name}\.wav does not have a name like 03a01Fa\.wav: "):
        corpus(write_recordings(f"wav/{name}.wav")).listing(tmp_path)


def test_another_layout_is_rejected(write_recordings: WriteRecordings, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        corpus(write_recordings("03a01Fa.wav")).listing(tmp_path)
    assert str(error.value) == (
        f"corpus emodb: the folder {tmp_path} has another layout (looked for utterances.csv or "
        "wav/*.wav): set corpus.root=<folder of the corpus>; docs/corpora.md describes where to "
        "get it"
    )


@pytest.mark.corpora
def test_real_corpus_has_the_published_counts(data_root: Path, tmp_path: Path) -> None:
    found = corpus(data_root / "emodb").listing(tmp_path).utterances
    assert len(found) == 339
    assert Counter(u.emotion for u in found) == {
        "neutral": 79,
        "happiness": 71,
        "sadness": 62,
        "anger": 127,
    }
    genders = {u.speaker: u.attributes["gender"] for u in found}
    assert Counter(genders.values()) == {"female": 5, "male": 5}


@pytest.mark.corpora
def test_real_names_agree_with_the_table(
    data_root: Path, write_recordings: WriteRecordings, tmp_path: Path
) -> None:
    listed = corpus(data_root / "emodb").listing(tmp_path).utterances
    parsed = (
        corpus(write_recordings(*(f"wav/{u.path.stem}.wav" for u in listed)))
        .listing(tmp_path)
        .utterances
    )
    for by_table, by_name in zip(listed, parsed, strict=True):
        assert (by_table.speaker, by_table.emotion) == (by_name.speaker, by_name.emotion)
        assert by_name.attributes.items() <= by_table.attributes.items()
