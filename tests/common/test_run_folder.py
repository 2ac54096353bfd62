"""One process at a time works in a run's folder."""

import signal
import subprocess
import sys

import pytest

from fedser.common.errors import UserError
from fedser.common.run_folder import LOCK, Busy, alone, remove_run

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
