"""The folder of a run: one process at a time works in it, and on one run."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fedser.common.errors import UserError, refusal
from fedser.common.files import remove_leftovers

LOCK = ".lock"
RUN_FILE = "run.json"
"""The configuration that the run was begun with, with all interpolations resolved."""
HYDRA = ".hydra"
TRACES = (RUN_FILE, "checkpoint", "transcript", "training.json", "results.json")
"""A folder that holds one of them holds a run."""
PROBLEM_FILE = "problem.txt"
"""Of a run in a sweep that failed: the reason."""
TRACEBACK_FILE = "traceback.txt"
"""Beside it, if the failure is no user's error: the traceback."""


class Busy(UserError):
    """Another process works in the folder: nothing in it may be touched."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make a folder where there is none, and keep all other processes out of it.

    The lock ends with the process, whatever ends that. Its file stays, or is removed by
    `remove_run` alone: another one in its place would let two processes in.

    Raises
    ------
    Busy
        If another process works in the folder.
    UserError
        If the folder cannot be written to.
    """
    busy = (
        f"{folder}: another process works on this run; wait for it to end, or set "
        "hydra.run.dir (of a sweep: hydra.sweep.dir) to another folder"
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0, mode=0o600)
        lock.acquire()
    except (Timeout, FileNotFoundError) as error:  # not found: the other one removed the folder
        raise Busy(busy) from error
    except OSError as error:
        line = f"{folder}: cannot be written to ({error.strerror or error})"
        raise refusal(error, line) from error
    try:
        remove_leftovers(folder)
        yield
    finally:
        lock.release()


def is_used(folder: Path) -> bool:
    """Tell whether a folder holds a run."""
    return any((folder / name).exists() for name in TRACES)


def remove_run(folder: Path, outputs: Path) -> None:
    """Remove a folder if it holds nothing but its lock, and then the empty ones in `outputs`."""
    if {path.name for path in folder.iterdir()} - {LOCK}:
        return
    with suppress(OSError):  # another process makes something in it by now
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()
        for parent in folder.parents:
            if not parent.is_relative_to(outputs):
                break
            parent.rmdir()
