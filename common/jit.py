"""Compiled loops over arrays."""

import fcntl
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt


def _keeps_code() -> bool:
    """Return whether compiled code can be cached: beside this file or in the user's cache."""
    try:
        numba.njit(cache=True)(_keeps_code)
    except RuntimeError:  # neither is writable
        return False
    return True


KEEPS_CODE = _keeps_code()
# Threads run in parallel; sums may be reordered and products fused, but NaN stays NaN.
compiled = numba.njit(
    cache=KEEPS_CODE, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"}
)
"""Compile a function on its first call for each type of arguments; cache the code if possible."""


@compiled
def sum_of_squares(values: npt.NDArray[np.floating]) -> float:
    """Return the sum of squares of an array (n,), in float64."""
    total = 0.0
    for i in range(len(values)):
        total += np.float64(values[i]) ** 2
    return total


def as_rows(stack: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return k arrays (k, ...) as a read-only array (k, n), so that all have one compiled type."""
    rows = stack.reshape(len(stack), math.prod(stack.shape[1:])).view()
    rows.flags.writeable = False
    return rows


@contextmanager
def compiling_alone() -> Iterator[None]:
    """Let other processes with the same code cache wait; they then find the compiled code."""
    if not KEEPS_CODE:
        yield
        return
    with (Path(str(sum_of_squares.stats.cache_path)) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
