"""Folders for what must not outlive a process: features of speakers, and secrets.

A process that is killed cannot clear up. Its folders are in a known place of the user's, each with
a lock that the kernel frees when the process ends, and whoever makes the next one removes those
that nobody holds.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fedser.common.errors import UserError

LOCK = ".lock"


def place() -> Path:
    """Return the folder that holds all of them, which this user alone can enter.

    Raises
    ------
    UserError
        If another user made it, or others can enter it.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0  # elsewhere each user has a place anyway
    folder = Path(tempfile.gettempdir(), f"fedser-{user}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    others = hasattr(os, "getuid") and (found.st_uid != user or found.st_mode & 0o077)
    if others or not stat.S_ISDIR(found.st_mode):
        raise UserError(
            f"{folder}: not a folder of this user alone; remove it, or set TMPDIR to a folder of "
            "your own"
        )
    return folder


@contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder that lasts no longer than this process, and remove those that others left.

    Raises
    ------
    UserError
        As `place` does.
    """
    base = place()
    with FileLock(base / f"all{LOCK}"):
        _sweep(base)
        folder = Path(tempfile.mkdtemp(dir=base))
        held = FileLock(folder.with_suffix(LOCK), thread_local=False)
        held.acquire()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        held.release()
        Path(held.lock_file).unlink(missing_ok=True)


def _sweep(base: Path) -> None:
    """Remove the folders of processes that ended."""
    for folder in base.iterdir():
        if folder.suffix == LOCK or folder.is_symlink():
            continue
        lock = FileLock(folder.with_suffix(LOCK))
        try:
            with lock.acquire(timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except Timeout:
            continue
        Path(lock.lock_file).unlink(missing_ok=True)
