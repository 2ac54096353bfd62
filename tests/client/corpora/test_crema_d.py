import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from fedser.client.corpora.base import Listing
from fedser.client.corpora.crema_d import CremaD
from fedser.common.errors import UserError
from tests.client.corpora.conftest import WriteLayout

VOTES = "processedResults/summaryTable.csv"
LETTERS = {"N": "neutral", "H": "happiness", "S": "sadness", "A": "anger"}


def listing(root: Path, on_bad_file: str = "error") -> Listing:
    return CremaD("crema_d", 1, on_bad_file, str(root)).listing(root)


def test_labels_follow_the_majority_of_votes(write_layout: WriteLayout) -> None:
    root = write_layout("crema_d")
    found = listing(root)
    counts = Counter((u.speaker, u.emotion) for u in found.utterances)
    assert counts == {
        (speaker, emotion): 2 if emotion == "sadness" and speaker != "1076" else 1
        for speaker in ("1001", "1002", "1076")
        for emotion in ("neutral", "happiness", "sadness", "anger")
    }
    assert found.left_out == {
        "tied vote": 6,
        "fear": 3,
        "disgust": 3,
        "1076_MTI_SAD_XX without sound": 1,
    }
    known = {u.speaker: u.attributes for u in found.utterances if u.emotion == "anger"}
    assert known["1001"] == {
        "corpus": "crema_d",
        "language": "en",
        "sentence": "ITS",
        "intended": "ANG",
        "intensity": "XX",
        "age": "51",
        "gender": "male",
        "race": "Caucasian",
        "ethnicity": "Not Hispanic",
    }
    assert "race" not in known["1076"]  # Unknown
    assert known["1076"]["ethnicity"] == "Hispanic"
    assert found.utterances[0].path == root / "AudioWAV/1001_DFA_HAP_XX.wav"


def test_demographics_may_lie_next_to_the_votes(write_layout: WriteLayout) -> None:
    root = write_layout("crema_d")
    (root / "VideoDemographics.csv").rename(root / "processedResults" / "VideoDemographics.csv")
    assert len(listing(root).utterances) == 14


def test_missing_recordings_are_rejected_or_kept(write_layout: WriteLayout) -> None:
    root = write_layout("crema_d")
    for name in ("1001_IEO_NEU_XX", "1002_TAI_FEA_XX"):  # the second is left out anyway
        (root / "AudioWAV" / f"{name}.wav").unlink()
    with pytest.raises(UserError) as error:
        listing(root)
    assert str(error.value) == (
        f"{root / VOTES}: audio file not found (the first is "
        f"{root}/AudioWAV/1001_IEO_NEU_XX.wav) in row 2: "
        "correct the path or corpus.root, or set corpus.on_bad_file=skip"
    )
    assert len(listing(root, on_bad_file="skip").utterances) == 14


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (VOTES, '"N","N","N"', '"N","N","Q"', "unknown emotion 'Q' in rows 2, 11, 20: use "),
        (VOTES, "MultiModalVote", "Vote", "no column 'MultiModalVote' (the columns are FileName, "),
        ("VideoDemographics.csv", "Race", "race", "no column Race: restore the original table"),
        (
            "VideoDemographics.csv",
            "1002,",
            "1003,",
            "no row for the speaker of 1002_IEO_NEU_XX.wav: restore the original table",
        ),
        ("VideoDemographics.csv", "1002,21", "1002,-1", ""),
    ],
)
def test_unusable_tables_are_rejected(
    write_layout: WriteLayout, file: str, old: str, new: str, message: str
) -> None:
    root = write_layout("crema_d")
    (root / file).write_text((root / file).read_text().replace(old, new))
    with pytest.raises(UserError) as error:
        listing(root)
    if not message:
        file, message = (
            VOTES,
            "age '-1' is not a number of years above 0 in rows 11, 12, 13, 14, 18:",
        )
    assert str(error.value).startswith(f"{root / file}: {message}")


@pytest.mark.corpora
def test_real_metadata_gives_the_published_counts(data_root: Path, tmp_path: Path) -> None:
    """Counts a speaker, emotion and gender as the tables themselves tell them; files are empty."""
    (tmp_path / "AudioWAV").mkdir()
    (tmp_path / "processedResults").mkdir()
    metadata = data_root / "crema_d_metadata"
    shutil.copy(metadata / "summaryTable.csv", tmp_path / VOTES)
    shutil.copy(metadata / "VideoDemographics.csv", tmp_path)
    votes = pd.read_csv(metadata / "summaryTable.csv", index_col=0)
    for name in votes["FileName"]:
        (tmp_path / "AudioWAV" / f"{name}.wav").touch()
    found = listing(tmp_path)

    assert len(votes) == 7442  # as published
    tied = votes["MultiModalVote"].str.contains(":")
    silent = votes["FileName"] == "1076_MTI_SAD_XX"
    assert found.left_out == {
        "tied vote": tied.sum(),
        "fear": (votes["MultiModalVote"] == "F").sum(),
        "disgust": (votes["MultiModalVote"] == "D").sum(),
        "1076_MTI_SAD_XX without sound": 1,
    }
    assert dict(found.left_out) == {
        "tied vote": 420,
        "fear": 1084,
        "disgust": 1139,
        "1076_MTI_SAD_XX without sound": 1,
    }
    assert len(found.utterances) == 7442 - 420 - 1084 - 1139 - 1 == 4798
    assert Counter(u.emotion for u in found.utterances) == {
        "neutral": 1972,
        "happiness": 1219,
        "anger": 1019,
        "sadness": 588,
    }

    kept = votes[votes["MultiModalVote"].isin(LETTERS) & ~silent]
    actors = kept["FileName"].str[:4]
    by_speaker = kept.groupby([actors, kept["MultiModalVote"].map(LETTERS)]).size()
    assert Counter((u.speaker, u.emotion) for u in found.utterances) == by_speaker.to_dict()

    people = pd.read_csv(metadata / "VideoDemographics.csv", dtype=str).set_index("ActorID")
    known = {u.speaker: u.attributes for u in found.utterances}
    assert known.keys() == set(people.index) and len(known) == 91
    for column, key in (("Age", "age"), ("Race", "race"), ("Ethnicity", "ethnicity")):
        expected = people[column][people[column] != "Unknown"].to_dict()
        assert {s: a[key] for s, a in known.items() if key in a} == expected
    genders = Counter(attributes["gender"] for attributes in known.values())
    assert genders == {"male": 48, "female": 43}  # as published
    sex = people["Sex"].str.lower().to_dict()
    assert {speaker: a["gender"] for speaker, a in known.items()} == sex
    assert Counter(a.get("race") for a in known.values()) == {
        "Caucasian": 61,
        "African American": 22,
        "Asian": 7,
        None: 1,
    }
    assert Counter(u.attributes["gender"] for u in found.utterances) == Counter(actors.map(sex))
