from collections import Counter
from pathlib import Path

import pytest

from fedser.client.corpora.nemo import Nemo
from fedser.common.errors import UserError
from tests.client.corpora.conftest import WriteRecordings

HEADER = "file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage"


def corpus(root: Path) -> Nemo:
    return Nemo("nemo", root=str(root), shards=5, on_bad_file="error")


def publish(write_recordings: WriteRecordings, *emotions: str) -> Path:
    """Write one sentence in each emotion; the published speaker column is padded."""
    names = [f"WR0_{emotion}_64.wav" for emotion in emotions]
    rows = [
        f"{name}\t{emotion}\tUcho słyszy, i to jak.\tucho słyszy i to jak\t        WR0\tmale\t23"
        for name, emotion in zip(names, emotions, strict=True)
    ]
    root = write_recordings(*(f"samples/{name}" for name in names))
    (root / "data.tsv").write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    return root


def test_published_layout_is_read(write_recordings: WriteRecordings, tmp_path: Path) -> None:
    root = publish(
        write_recordings, "surprised", "sadness", "neutral", "happiness", "fear", "anger"
    )
    found = corpus(root).listing(tmp_path).utterances

    assert [u.emotion for u in found] == ["anger", "happiness", "neutral", "sadness"]
    assert found[0].path == root / "samples/WR0_anger_64.wav"
    assert found[0].speaker == "WR0"
    assert found[0].attributes == {
        "corpus": "nemo",
        "language": "pl",
        "gender": "male",
        "age": "23",
        "sentence": "64",
        "raw_text": "Ucho słyszy, i to jak.",
        "normalized_text": "ucho słyszy i to jak",
    }


def test_an_unknown_emotion_is_rejected(write_recordings: WriteRecordings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.tsv: unknown emotion 'boredom' in row 3: use "):
        corpus(publish(write_recordings, "anger", "boredom")).listing(tmp_path)


def test_an_empty_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        corpus(tmp_path).listing(tmp_path)
    assert str(error.value) == (
        f"corpus nemo: the folder {tmp_path} is empty (looked for utterances.csv or data.tsv): "
        "set corpus.root=<folder of the corpus>; docs/corpora.md describes where to get it"
    )


@pytest.mark.corpora
def test_real_corpus_has_the_published_counts(data_root: Path, tmp_path: Path) -> None:
    found = corpus(data_root / "nemo").listing(tmp_path).utterances
    assert len(found) == 1542
    assert Counter(u.emotion for u in found) == {
        "neutral": 405,
        "happiness": 373,
        "sadness": 386,
        "anger": 378,
    }
    whole = dict.fromkeys(("EB0", "IC0", "KD0", "KS0", "MK0", "SM0", "TP0", "WR0"), 180)
    assert Counter(u.speaker for u in found) == whole | {"MP0": 102}
    genders = {u.speaker: u.attributes["gender"] for u in found}
    assert Counter(genders.values()) == {"female": 4, "male": 5}
    assert {u.attributes["language"] for u in found} == {"pl"}
