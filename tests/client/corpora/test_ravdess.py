from collections import Counter
from pathlib import Path

import pytest

from fedser.client.corpora.ravdess import Ravdess
from fedser.common.errors import UserError
from tests.client.corpora.conftest import WriteRecordings

NAMED = "03-01-05-01-01-01-01.flac"


def corpus(root: Path, calm: str = "drop", on_bad_file: str = "error") -> Ravdess:
    return Ravdess("ravdess", root=str(root), shards=4, on_bad_file=on_bad_file, calm=calm)


def published(folder: str = "Actor_{:02d}/") -> list[str]:
    """Every emotion once by actors 2 and 11, in the names of the corpus."""
    return [
        f"{folder.format(actor)}03-01-{emotion:02d}-0{1 + (emotion == 5)}-02-01-{actor:02d}.wav"
        for actor in (11, 2)
        for emotion in range(1, 9)
    ]


def test_published_layout_is_read(write_recordings: WriteRecordings, tmp_path: Path) -> None:
    found = corpus(write_recordings(*published())).listing(tmp_path).utterances

    assert [(u.speaker, u.emotion) for u in found] == [
        (speaker, emotion)
        for speaker in ("02", "11")
        for emotion in ("neutral", "happiness", "sadness", "anger")
    ]
    assert found[0].path == tmp_path / "Actor_02/03-01-01-01-02-01-02.wav"
    assert found[0].attributes == {
        "corpus": "ravdess",
        "gender": "female",
        "language": "en",
        "sentence": "02",
        "intensity": "normal",
        "take": "01",
    }
    assert found[-1].attributes["gender"] == "male"
    assert found[-1].attributes["intensity"] == "strong"


def test_flat_files_are_read_without_song_and_video(
    write_recordings: WriteRecordings, tmp_path: Path
) -> None:
    song, video = "03-02-05-01-01-01-02.wav", "01-01-05-01-01-01-02.wav"
    root = write_recordings(*published(folder=""), song, video)
    assert len(corpus(root).listing(tmp_path).utterances) == 8


def test_calm_can_count_as_neutral(write_recordings: WriteRecordings, tmp_path: Path) -> None:
    found = corpus(write_recordings(*published()), calm="neutral").listing(tmp_path).utterances
    assert Counter(u.emotion for u in found)["neutral"] == 4


def test_an_unknown_calm_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^corpus\.calm=keep: must be drop or neutral$"):
        corpus(tmp_path, calm="keep").listing(tmp_path)


def test_another_layout_is_rejected(write_recordings: WriteRecordings, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        corpus(write_recordings("speech/1.wav")).listing(tmp_path)
    assert str(error.value) == (
        f"corpus ravdess: the folder {tmp_path} has another layout (looked for utterances.csv or "
        "Actor_*/03-01-*.wav or 03-01-*.wav): set corpus.root=<folder of the corpus>; "
        "docs/corpora.md describes where to get it"
    )


def test_a_missing_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent does not exist"):
        corpus(tmp_path / "absent").listing(tmp_path)


def test_a_file_name_of_another_form_is_rejected(
    write_recordings: WriteRecordings, tmp_path: Path
) -> None:
    root = write_recordings("Actor_01/03-01-09-01-01-01-01.wav")
    with pytest.raises(
        UserError, match=r"03-01-09-01-01-01-01\.wav does not have a name like 03-01-05-02"
    ):
        corpus(root).listing(tmp_path)


def test_the_layout_with_a_table_is_read(write_recordings: WriteRecordings, tmp_path: Path) -> None:
    angry, calm = f"audio/{NAMED}", "audio/03-01-02-01-01-01-01.flac"
    root = write_recordings(angry, calm)
    (root / "utterances.csv").write_text(
        f"file,speaker,gender,emotion\n{calm},01,male,calm\n{angry},01,male,anger\n"
    )
    assert [u.emotion for u in corpus(root).listing(tmp_path).utterances] == ["anger"]
    merged = corpus(root, calm="neutral").listing(tmp_path).utterances
    assert [u.emotion for u in merged] == ["neutral", "anger"]
    assert merged[0].attributes == {"corpus": "ravdess", "language": "en", "gender": "male"}


def test_missing_audio_is_rejected_or_kept(tmp_path: Path) -> None:
    (tmp_path / "utterances.csv").write_text(f"file,speaker,emotion\n{NAMED},01,anger\n")
    with pytest.raises(UserError, match="audio file not found"):
        corpus(tmp_path).listing(tmp_path)
    assert len(corpus(tmp_path, on_bad_file="skip").listing(tmp_path).utterances) == 1


@pytest.mark.corpora
def test_real_corpus_has_the_published_counts(data_root: Path, tmp_path: Path) -> None:
    found = corpus(data_root / "ravdess", calm="neutral").listing(tmp_path).utterances
    assert len(found) == 864
    assert Counter(u.emotion for u in found) == {
        "neutral": 96 + 192,
        "happiness": 192,
        "sadness": 192,
        "anger": 192,
    }
    assert Counter(u.speaker for u in found) == {f"{actor:02d}": 36 for actor in range(1, 25)}
    assert all((int(u.speaker) % 2 == 1) == (u.attributes["gender"] == "male") for u in found)
    assert len(corpus(data_root / "ravdess").listing(tmp_path).utterances) == 864 - 192


@pytest.mark.corpora
def test_real_names_agree_with_the_table(
    data_root: Path, write_recordings: WriteRecordings, tmp_path: Path
) -> None:
    listed = corpus(data_root / "ravdess").listing(tmp_path).utterances
    parsed = (
        corpus(write_recordings(*(f"{u.path.stem}.wav" for u in listed)))
        .listing(tmp_path)
        .utterances
    )
    for by_table, by_name in zip(listed, parsed, strict=True):
        assert (by_table.speaker, by_table.emotion) == (by_name.speaker, by_name.emotion)
        assert by_name.attributes.items() <= by_table.attributes.items()
