"""One run per folder, under one configuration."""

import pytest

from fedser.common.errors import UserError
from fedser.common.run_folder import RUN_FILE
from fedser.conf.run_record import changes, note_run, reject_changes, reject_used


@pytest.mark.parametrize(
    "trace", [RUN_FILE, "checkpoint", "transcript", "training.json", "results.json"]
)
def test_a_new_run_is_refused_where_any_part_of_another_is(tmp_path, trace):
    (tmp_path / "notes.txt").write_text("no run's")
    reject_used(tmp_path)
    (tmp_path / trace).mkdir()
    with pytest.raises(UserError, match=f"holds a run already: set resume={tmp_path}"):
        reject_used(tmp_path)


BEGUN = {"seed": 0, "folds": [0, 1], "privacy": {"epsilon": 8}, "attack": {}, "cache": "a"}


def test_what_decides_the_training_may_not_change(tmp_path):
    note_run(tmp_path, BEGUN)
    reject_changes(tmp_path, {**BEGUN, "attack": {"cnn": {}}, "cache": "b"})
    other = {**BEGUN, "folds": [0], "privacy": {"epsilon": 8, "clip": 1}}
    assert changes(tmp_path, other, set()) == [
        "folds was [0, 1] and is [0]",
        "privacy.clip was None and is 1",
    ]
    with pytest.raises(UserError, match=r"folds was \[0, 1\] and is \[0\]; privacy.clip"):
        reject_changes(tmp_path, other)


def test_a_run_of_an_earlier_version_is_rejected_in_one_line(tmp_path):
    of_today = {**BEGUN, "corpus": {"_target_": "fedser.client.corpora.ravdess.Ravdess"}}
    note_run(tmp_path, of_today)
    reject_changes(tmp_path, of_today)
    earlier = {**BEGUN, "corpus": {"_target_": "client.corpora.ravdess.Ravdess"}}
    note_run(tmp_path, earlier)
    expected = f"{tmp_path} was made by an earlier version of fedser; start the run anew"
    with pytest.raises(UserError) as rejected:
        reject_changes(tmp_path, of_today)
    assert str(rejected.value) == expected
    attacked = {**BEGUN, "attack": {"cnn": {"_target_": "attacks.algorithms.cnn.Cnn"}}}
    note_run(tmp_path, attacked)  # also under a key that may differ
    with pytest.raises(UserError, match="an earlier version of fedser"):
        reject_changes(tmp_path, BEGUN)


def test_classes_of_the_user_are_of_no_version(tmp_path):
    mine = {**BEGUN, "privacy": {"custom": {"_target_": "clients.rounding.Rounding"}}}
    note_run(tmp_path, mine)
    reject_changes(tmp_path, mine)


@pytest.mark.parametrize("text", ["", "[1]", '"x"', '{"a": 1', "\xff"])
def test_a_damaged_note_is_refused(tmp_path, text):
    (tmp_path / RUN_FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"run\.json: damaged"):
        changes(tmp_path, BEGUN, set())
