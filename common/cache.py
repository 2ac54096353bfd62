"""The cache: features, synthetic speech and shadow federations, kept between runs."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedser.common.errors import Suspended, UserError, brief, os_problem, refusal
from fedser.common.files import replacing

AnyArray = npt.NDArray[Any]

SET = "set cache=FOLDER (FEDSER_CACHE) to a folder that you can write to"


def cache_folder(cache: str) -> Path:
    """Return the folder that the key ``cache`` names as an absolute path; make it if missing.

    A leading ``~`` is the user's home.

    Raises
    ------
    UserError
        If the key is empty, or if the folder cannot be made.
    """
    if not cache.strip():
        raise UserError("cache (FEDSER_CACHE) is empty: unset it, or name a folder")
    folder = Path(os.path.expanduser(cache))
    if folder.parts[0].startswith("~"):  # no home folder is known
        raise UserError(f"cache={cache}: no home folder is known; {SET}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(error, f"cache={cache}: {error.strerror}; {SET}") from error
    return folder.absolute()


@contextmanager
def filling(cache: Path) -> Iterator[None]:
    """Suspend the run if the cache cannot be written, for example because the disk is full.

    Raises
    ------
    Suspended
        Naming the file and the reason.
    """
    try:
        yield
    except OSError as error:
        raise Suspended(f"cache={cache}: {os_problem(error)}, or {SET}") from error


def read_array(path: Path) -> AnyArray | None:
    """Read an array that `write_array` wrote; return None if it is absent or damaged."""
    try:
        found: AnyArray = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        print(f"{path}: damaged ({brief(error)}): made anew", file=sys.stderr)
        return None
    return found


def write_array(path: Path, array: AnyArray) -> None:
    """Write an array to a file that is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)
