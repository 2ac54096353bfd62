"""Files that are whole or not there, that only their owner reads, and that outlast a crash."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".fedser-"


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new empty file beside `path`, which takes its place when all went well.

    Its name is random and it is made exclusively, so that no link that lies there is followed. If
    `path` is a link, the link is replaced, and not the file that it leads to.
    """
    descriptor, name = tempfile.mkstemp(prefix=PARTIAL, suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    try:
        yield Path(name)
        os.replace(name, path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(name)
        if isinstance(error, OSError):
            error.filename = path  # a write says none, and nobody knows the temporary name
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one step; leave one that holds the same."""
    if path.is_file() and not path.is_symlink() and path.read_bytes() == content:
        return
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file in one step; leave one that says the same."""
    write_bytes(path, text.encode())


def make_private(folder: Path) -> None:
    """Make a folder, and those above it, that only its owner enters."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writes that a kill interrupted.

    The folder must be one that no other process writes to.
    """
    for path in folder.glob(f"{PARTIAL}*"):
        path.unlink()
