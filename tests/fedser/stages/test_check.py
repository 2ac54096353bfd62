"""`stage=check` end to end, on small corpora in their published layouts."""

from pathlib import Path

import pytest

from fedser.common.console import console
from tests.client.corpora.layouts import LAYOUTS, Speech


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Speech:
    return Speech.spoken(tmp_path_factory.mktemp("voices"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def checked(speech, cache, tmp_path, monkeypatch, command):
    """Write a corpus, change its folder and run the command in an empty one."""

    def run(name: str, *arguments: str, change=lambda root: None) -> tuple[int, str]:
        root, empty = tmp_path / "data" / name, tmp_path / "empty"
        LAYOUTS[name](root, speech)
        change(root)
        empty.mkdir()
        monkeypatch.chdir(empty)
        monkeypatch.setattr(console, "width", 150)
        given = (f"corpus={name}", f"data_root={tmp_path / 'data'}", "shadow=[]", f"cache={cache}")
        status, printed = command(*given, "stage=check", "corpus.shards=1", *arguments)
        assert status == 0 or not list(empty.iterdir())
        return status, " ".join(printed.translate(str.maketrans("┃│", "  ")).split())

    return run


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        (
            "iemocap",
            [],
            [
                "corpus iemocap: IEMOCAP",
                "labels Session*/dialog/EmoEvaluation/Ses*.txt 4 of 151",
                "turns Session*/sentences/wav/Ses*/Ses*.wav 36 of 10039",
                "licence: USC's release agreement, for research",
                "from: https://sail.usc.edu/iemocap/iemocap_release.htm see: docs/corpora.md",
                "Ses02M male 1 2 1 1 5",
                "4 speakers 2 female, 2 male 4 8 4 4 20",
                "frustration (4), no agreement (4), scripted dialog (4)",
            ],
        ),
        (
            "msp_improv",
            [],
            [
                "labels Evalution.txt or Evaluation.txt 1 of 1",
                "96 of 8438",
                "4 speakers 2 female, 2 male 8 8 8 8 32",
                "natural interaction (24), no agreement (8), read sentence (24)",
            ],
        ),
        (
            "crema_d",
            [],
            [
                "speech AudioWAV/*.wav 27 of 7442",
                "1076 female 1 1 1 1 4",
                "3 speakers 2 female, 1 male 3 3 5 3 14",
                "age_group: 30 and above (1), below 30 (2)",
                "ethnicity: Hispanic (1), Not Hispanic (2)",
                "race: African American (1), Caucasian (1), not known (1)",
                "1076_MTI_SAD_XX without sound (1), disgust (3), fear (3), tied vote (6)",
            ],
        ),
        (
            "urdu",
            [],
            ["happy speech Happy/*.wav 3 of 100", "3 speakers 1 female, 2 male 1 3 3 2 9"],
        ),
        (
            "audformat",
            ["+corpus.emotions.boredom=null", "+corpus.emotions.joy=sadness"],
            [
                "header db.yaml 1 of 1 tables db.*.parquet or db.*.csv 3",
                "2 speakers 1 female, 1 male 1 0 3 2 6",
                "language: de (1), tr (1)",
                "left out: boredom (1), no label (1)",
            ],
        ),
    ],
)
def test_what_was_found(checked, name, arguments, said):
    status, printed = checked(name, *arguments)
    assert status == 0
    for text in said:
        assert text in printed


def test_what_is_missing_is_told_before_it_ends_the_run(checked):
    status, printed = checked(
        "crema_d", change=lambda root: (root / "processedResults/summaryTable.csv").unlink()
    )
    assert status == 2
    table, line = printed.split("fedser: ")
    assert "votes processedResults/summaryTable.csv missing" in table
    assert "licence: ODbL 1.0" in table and "see: docs/corpora.md" in table
    assert "is incomplete (looked for AudioWAV/*.wav, processedResults/summaryTable.csv, " in line


def break_audio(root: Path) -> None:
    (root / "AudioWAV" / "1001_IEO_NEU_XX.wav").write_bytes(b"version https://git-lfs\n")
    (root / "AudioWAV" / "1002_IEO_NEU_XX.wav").write_bytes(b"")


def test_unreadable_and_empty_audio(checked):
    status, printed = checked("crema_d", change=break_audio)
    assert status == 2
    assert "AudioWAV/1001_IEO_NEU_XX.wav: unreadable or empty audio" in printed
    assert "(and 1 more): repair it, or set corpus.on_bad_file=skip" in printed


def test_unreadable_and_empty_audio_is_counted(checked):
    status, printed = checked("crema_d", "corpus.on_bad_file=skip", change=break_audio)
    assert status == 0
    assert "3 speakers 2 female, 1 male 1 3 5 3 12" in printed
    assert "tied vote (6), unreadable (2)" in printed


def test_one_speaker_alone(checked):
    status, printed = checked("urdu", "corpus.speakers=[SM3]")
    assert status == 0 and "1 speakers 1 male 1 1 1 2 5" in printed


def test_one_speaker_alone_cannot_be_trained_on(checked):
    status, printed = checked("urdu", "corpus.speakers=[SM3]", "stage=train", "runtime=local")
    assert status == 2
    assert (
        "fedser: 1 speaker(s) are too few for 5 test folds: use a corpus with at least 5 speakers"
        in printed
    )


@pytest.mark.corpora
def test_real_metadata_without_recordings(command, data_root, tmp_path):
    root = data_root / "crema_d_metadata"
    status, printed = command("corpus=crema_d", f"corpus.root={root}", "stage=check")
    assert status == 2
    assert "found only its speakers): set corpus.root=<folder of the corpus>" in printed
