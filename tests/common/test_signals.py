"""Signals that end a command."""

import subprocess
import sys

import pytest

ENDING = """
import os, signal, sys, threading
from fedser.common.signals import Interrupted, interruptible

def lost() -> None:
    after.wait()
    raise KeyError("work that was taken away")

after = threading.Event()
thread = threading.Thread(target=lost)
thread.start()
try:
    with interruptible():
        if sys.argv[1] == "interrupted":
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
except Interrupted:
    pass
after.set()
thread.join()
"""


@pytest.mark.parametrize(("way", "told"), [("interrupted", False), ("undisturbed", True)])
def test_a_failing_thread_prints_unless_the_command_is_ending(way, told):
    done = subprocess.run(
        [sys.executable, "-c", ENDING, way], capture_output=True, text=True, check=True
    )
    assert ("Traceback" in done.stderr) is told
