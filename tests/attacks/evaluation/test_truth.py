"""The victims' true attributes: one module reads them, and rejects files that no run wrote."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedser import attacks
from fedser.attacks.evaluation.attribute import evaluate_attack
from fedser.attacks.evaluation.truth import add_speakers_and_labels, speakers_of
from fedser.common.errors import UserError
from tests.attacks.evaluation.test_attribute import CLASSES, CONFIG, study

TRUTH = "attacks/evaluation/truth.py"


def test_only_one_module_reads_the_truth():
    root = Path(attacks.__file__).parents[1]
    sources = {
        path.relative_to(root).as_posix(): path.read_text("utf-8")
        for package in ("attacks", "client", "common", "conf", "fedser", "server")
        for path in (root / package).rglob("*.py")
    }
    naming = {path for path, text in sources.items() if "truth.parquet" in text}
    # Training writes the file, the stage passes its path on, the others name it in docstrings.
    assert naming <= {
        TRUTH,
        "attacks/evaluation/attribute.py",
        "attacks/evaluation/reidentification.py",
        "fedser/stages/attack.py",
        "server/study/files.py",
    }
    assert {path for path in naming if "read_table" in sources[path]} == {TRUTH}
    using = {path for path, text in sources.items() if "evaluation.truth" in text}
    assert using == {
        "attacks/evaluation/attribute.py",
        "attacks/evaluation/reidentification.py",
        "fedser/stages/check.py",
    }


def test_labels_and_speakers_are_joined_by_federation_and_client(tmp_path):
    scores, path = study(tmp_path)
    joined = add_speakers_and_labels(scores, path, "gender", CLASSES)
    truth = pd.read_parquet(path).set_index(["federation", "client"])
    expected = truth.loc[list(zip(scores["federation"], scores["client"], strict=True))]
    assert joined["label"].tolist() == [CLASSES.index(v) for v in expected["gender"]]
    assert joined["fold"].tolist() == expected["fold"].tolist()
    assert [f"s{number}" for number in joined["speaker"]] == expected["speaker"].tolist()
    np.testing.assert_array_equal(joined["score_1"], scores["score_1"])


def test_speakers_are_numbered_and_have_no_attributes(tmp_path):
    path = study(tmp_path)[1]
    found = speakers_of(path)
    assert list(found) == ["federation", "client", "fold", "speaker"]
    assert set(found["speaker"]) == set(range(8))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "other",
            r"private speakers have the value\(s\) other, shadow speakers female and male",
        ),
        (None, r"have the value\(s\) missing"),
    ],
)
def test_values_that_shadow_speakers_lack_are_rejected(tmp_path, value, message):
    scores, path = study(tmp_path)
    truth = pd.read_parquet(path)
    truth.loc[0, "gender"] = value
    truth.to_parquet(path)
    with pytest.raises(UserError, match=message):
        evaluate_attack(scores, path, CLASSES, CONFIG, seed=0)


def test_a_missing_attribute_and_a_missing_file_are_rejected(tmp_path):
    scores, path = study(tmp_path)
    with pytest.raises(UserError, match=r"adversary\.attribute=age: the private corpus lacks it"):
        evaluate_attack(scores, path, CLASSES, replace(CONFIG, attribute="age"), seed=0)
    with pytest.raises(UserError, match=r"nothing\.parquet: not readable; run fedser stage=train"):
        evaluate_attack(scores, tmp_path / "nothing.parquet", CLASSES, CONFIG, seed=0)


def test_scores_of_an_unlisted_client_are_rejected(tmp_path):
    scores, path = study(tmp_path)
    scores.loc[3, "client"] = 99
    with pytest.raises(UserError, match=r"truth\.parquet: clients of the transcript are missing"):
        evaluate_attack(scores, path, CLASSES, CONFIG, seed=0)


TRUTHS = {
    "no federation": lambda truth: truth.drop(columns="federation"),
    "no fold": lambda truth: truth.drop(columns="fold"),
    "no speaker": lambda truth: truth.drop(columns="speaker"),
    "clients as text": lambda truth: truth.assign(client="zz"),
    "federations in numbers": lambda truth: truth.assign(federation=7),
    "genders in numbers": lambda truth: truth.assign(gender=7),
    "no rows": lambda truth: truth.iloc[:0],
    "one client": lambda truth: truth.assign(client=0),
    "one speaker": lambda truth: truth.assign(speaker="x"),
    "other clients": lambda truth: truth.assign(client=truth["client"] + 1000),
}


@pytest.mark.parametrize("name", TRUTHS)
def test_a_truth_that_no_run_wrote_is_rejected(tmp_path, name):
    scores, path = study(tmp_path)
    TRUTHS[name](pd.read_parquet(path)).to_parquet(path)
    with pytest.raises(UserError, match=r"truth\.parquet: .*; run fedser stage=train$") as caught:
        evaluate_attack(scores, path, CLASSES, CONFIG, seed=0)
    assert "\n" not in str(caught.value)
