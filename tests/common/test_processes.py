import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from joblib import delayed

from fedser.common.processes import side_by_side

WORKING = """
import os, time
import numpy as np
from joblib import delayed
from fedser.common.processes import side_by_side

def work(array):
    print(os.getpid(), array.filename, flush=True)
    time.sleep(600)

shared = np.zeros(1_000_000)
list(side_by_side([delayed(work)(shared)] * 2, 2))
"""
PATIENCE = 60.0


def ended(number):
    """Whether a process is gone, or only its parent has yet to take note."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def in_time(condition):
    deadline = time.monotonic() + PATIENCE
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return met


def test_results_of_worker_processes_come_in_order():
    assert list(side_by_side((delayed(abs)(-i) for i in range(5)), 2)) == [0, 1, 2, 3, 4]
    assert list(side_by_side([delayed(os.getpid)()] * 2, 1)) == [os.getpid()] * 2


def test_workers_and_shared_memory_go_with_a_killed_parent():
    parent = subprocess.Popen([sys.executable, "-c", WORKING], stdout=subprocess.PIPE, text=True)
    said = [parent.stdout.readline().split() for _ in range(2)]
    assert all(not ended(number) and Path(file).exists() for number, file in said)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert in_time(lambda: all(ended(number) for number, _ in said))
    assert in_time(lambda: not any(Path(file).parent.exists() for _, file in said))
