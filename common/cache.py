"""The folder of what is kept between runs: features, synthetic speech, shadow federations."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedser.common.errors import Suspended, UserError, brief, os_problem, refusal

Array = npt.NDArray[Any]

SET = "set cache=FOLDER (FEDSER_CACHE) to one that you can write to"


def cache_folder(cache: str) -> Path:
    """Return the folder that the key ``cache`` names, absolute; it is made if it is missing.

    A leading ``~`` is the user's home.

    Raises
    ------
    UserError
        If the key is empty, or the folder is none and cannot be made.
    """
    if not cache.strip():
        raise UserError("cache (FEDSER_CACHE) is empty: unset it, or name a folder")
    folder = Path(os.path.expanduser(cache))
    if folder.parts[0].startswith("~"):  # neither HOME nor the system tells of a home
        raise UserError(f"cache={cache}: no home folder is known; {SET}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(error, f"cache={cache}: {error.strerror}; {SET}") from error
    return folder.absolute()


@contextmanager
def filling(cache: Path) -> Iterator[None]:
    """Suspend a run for which the cache cannot be written, as on a full disk.

    Raises
    ------
    Suspended
        Naming the file and the reason.
    """
    try:
        yield
    except OSError as error:
        raise Suspended(f"cache={cache}: {os_problem(error)}, or {SET}") from error


def read_array(path: Path) -> Array | None:
    """Read an array that `write_array` wrote; None if there is none, or a damaged one."""
    try:
        found: Array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        print(f"{path}: damaged ({brief(error)}): made anew", file=sys.stderr)
        return None
    return found


def write_array(path: Path, array: Array) -> None:
    """Write an array in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.replace(file.name, path)
        except BaseException as error:
            os.unlink(file.name)
            if isinstance(error, OSError):
                error.filename = error.filename or str(path)
            raise
