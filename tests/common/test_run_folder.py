"""One process at a time in a run's folder, and one run."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedser.common.errors import UserError
from fedser.common.files import replacing, write_text
from fedser.common.run_folder import LOCK, RUN_FILE, Busy, alone, remove_run
from fedser.conf.run_record import changes, note_run, refuse_changes, refuse_used

HOLDER = """
import sys, time
from pathlib import Path
from fedser.common.run_folder import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_lets_the_next_one_in(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "run"], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    (tmp_path / "run" / ".fedser-half").write_text("half")
    with pytest.raises(Busy, match="another process works on this run"), alone(tmp_path / "run"):
        pass
    assert (tmp_path / "run" / ".fedser-half").exists()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with alone(tmp_path / "run"):
        assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]


def test_the_lock_of_a_removed_folder_keeps_nobody_out(tmp_path):
    folder = tmp_path / "outputs" / "today" / "run"
    with alone(folder):
        remove_run(folder, tmp_path / "outputs")
        assert not (tmp_path / "outputs").exists()
        with alone(folder), pytest.raises(Busy), alone(folder):
            pass


def test_a_folder_that_holds_something_is_not_removed(tmp_path):
    with alone(tmp_path / "run"):
        (tmp_path / "run" / "mine.txt").write_text("mine")
        remove_run(tmp_path / "run", tmp_path)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [LOCK, "mine.txt"]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="file/run: cannot be written to"),
        alone(tmp_path / "file" / "run"),
    ):
        pass


@pytest.mark.parametrize(
    "trace", [RUN_FILE, "checkpoint", "transcript", "training.json", "results.json"]
)
def test_a_new_run_is_refused_where_any_part_of_another_is(tmp_path, trace):
    (tmp_path / "notes.txt").write_text("no run's")
    refuse_used(tmp_path)
    (tmp_path / trace).mkdir()
    with pytest.raises(UserError, match=f"holds a run already: set resume={tmp_path}"):
        refuse_used(tmp_path)


BEGUN = {"seed": 0, "folds": [0, 1], "privacy": {"epsilon": 8}, "attack": {}, "cache": "a"}


def test_what_decides_the_training_may_not_change(tmp_path):
    note_run(tmp_path, BEGUN)
    refuse_changes(tmp_path, {**BEGUN, "attack": {"cnn": {}}, "cache": "b"})
    other = {**BEGUN, "folds": [0], "privacy": {"epsilon": 8, "clip": 1}}
    assert changes(tmp_path, other, set()) == [
        "folds was [0, 1] and is [0]",
        "privacy.clip was None and is 1",
    ]
    with pytest.raises(UserError, match=r"folds was \[0, 1\] and is \[0\]; privacy.clip"):
        refuse_changes(tmp_path, other)


def test_a_run_of_an_earlier_version_is_rejected_in_one_line(tmp_path):
    of_today = {**BEGUN, "corpus": {"_target_": "fedser.client.corpora.ravdess.Ravdess"}}
    note_run(tmp_path, of_today)
    refuse_changes(tmp_path, of_today)
    earlier = {**BEGUN, "corpus": {"_target_": "client.corpora.ravdess.Ravdess"}}
    note_run(tmp_path, earlier)
    expected = f"{tmp_path} was made by an earlier version of fedser; start the run anew"
    with pytest.raises(UserError) as rejected:
        refuse_changes(tmp_path, of_today)
    assert str(rejected.value) == expected
    attacked = {**BEGUN, "attack": {"cnn": {"_target_": "attacks.algorithms.cnn.Cnn"}}}
    note_run(tmp_path, attacked)  # also under a key that may differ
    with pytest.raises(UserError, match="an earlier version of fedser"):
        refuse_changes(tmp_path, BEGUN)


def test_classes_of_the_user_are_of_no_version(tmp_path):
    mine = {**BEGUN, "privacy": {"custom": {"_target_": "clients.rounding.Rounding"}}}
    note_run(tmp_path, mine)
    refuse_changes(tmp_path, mine)


@pytest.mark.parametrize("text", ["", "[1]", '"x"', '{"a": 1', "\xff"])
def test_a_damaged_note_is_refused(tmp_path, text):
    (tmp_path / RUN_FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"run\.json: damaged"):
        changes(tmp_path, BEGUN, set())


def test_a_link_in_a_files_place_is_replaced_and_not_followed(tmp_path):
    outside, run = tmp_path / "outside", tmp_path / "run"
    run.mkdir()
    outside.write_text("precious")
    for name in ("results.json", "results.json.partial", ".tmp"):
        (run / name).symlink_to(outside)
    write_text(run / "results.json", "precious")  # which the link's end says already
    assert not (run / "results.json").is_symlink() and outside.read_text() == "precious"
    write_text(run / "results.json", "new")
    assert outside.read_text() == "precious" and (run / "results.json").read_text() == "new"
    assert (run / "results.json").stat().st_mode & 0o777 == 0o600


def test_what_fails_halfway_leaves_the_file_as_it_was(tmp_path: Path):
    write_text(tmp_path / "file", "whole")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "file") as partial:
        partial.write_text("ha")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "whole"
