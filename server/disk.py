"""Files that outlast a crash of the machine, not of the process alone."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writes that a kill interrupted.

    safetensors writes beside the file, under such a name, and then renames. The folder must be one
    that no other process writes to.
    """
    for path in folder.glob(".tmp??????"):
        path.unlink()
