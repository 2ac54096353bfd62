"""The folder of a run: one run, and one process at a time."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fedser.common.errors import UserError, refusal
from fedser.common.files import remove_leftovers

LOCK = ".lock"
RUN_FILE = "run.json"
"""The resolved configuration that the run was begun with."""
HYDRA = ".hydra"
TRACES = (RUN_FILE, "checkpoint", "transcript", "training.json", "results.json")
"""A folder that holds one of these files or folders holds a run."""
PROBLEM_FILE = "problem.txt"
"""The reason why a run of a sweep failed."""
TRACEBACK_FILE = "traceback.txt"
"""The traceback, if the failure is not a user's error."""


class Busy(UserError):
    """Another process works in the folder: nothing in it may be touched."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make a folder if it is missing, and keep all other processes out of it.

    The lock ends with the process, however the process ends. Only `remove_run` removes the lock's
    file: a new file in its place would let two processes in.

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
    except (Timeout, FileNotFoundError) as error:  # not found: the other process removed the folder
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
    """Return whether a folder holds a run."""
    return any((folder / name).exists() for name in TRACES)


def remove_run(folder: Path, outputs: Path) -> None:
    """Remove a folder that holds only its lock, and then empty folders above it in `outputs`."""
    if {path.name for path in folder.iterdir()} - {LOCK}:
        return
    with suppress(OSError):  # another process has written something into it
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()
        for parent in folder.parents:
            if not parent.is_relative_to(outputs):
                break
            parent.rmdir()
