"""Folders that must not outlive a process, for features of speakers and for secrets.

A killed process cannot remove its folder. All folders are therefore in one place per user, each
with a lock that the system frees when the process ends. Whoever makes the next folder removes the
folders without a held lock.
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
    """Return the folder of all private folders; only this user can enter it.

    Raises
    ------
    UserError
        If another user made it, or others can enter it.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0  # on other systems each user has one anyway
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
    """Make a folder for this process, and remove the folders that ended processes left.

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
