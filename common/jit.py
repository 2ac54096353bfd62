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
    """Whether compiled code can be kept: beside this file, or in the user's cache."""
    try:
        numba.njit(cache=True)(_keeps_code)
    except RuntimeError:  # neither can be written to
        return False
    return True


KEEPS_CODE = _keeps_code()
# Threads run side by side; sums may be reordered and products fused, but NaN stays NaN.
compiled = numba.njit(
    cache=KEEPS_CODE, nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"}
)
"""Compile a function when it is first called with arrays of these types; keep code if possible."""


@compiled
def sum_of_squares(values: npt.NDArray[np.floating]) -> float:
    """Return the sum of squares of an array (n,), in float64."""
    total = 0.0
    for i in range(len(values)):
        total += np.float64(values[i]) ** 2
    return total


def as_rows(stack: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return k arrays (k, ...) as (k, n), read-only: all are of one type to the compiler then."""
    rows = stack.reshape(len(stack), math.prod(stack.shape[1:])).view()
    rows.flags.writeable = False
    return rows


@contextmanager
def compiling_alone() -> Iterator[None]:
    """Keep other processes waiting that keep code in the same place: they find it there then."""
    if not KEEPS_CODE:
        yield
        return
    with (Path(str(sum_of_squares.stats.cache_path)) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
