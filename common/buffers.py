"""Memory for large arrays that is used again once nobody holds them.

Memory that was never touched before costs several times what it costs to write to it: the
system has to find and clear every page. Arrays of a round are therefore borrowed here, and go
back by themselves when the last reference to them, or to a view of them, is gone.
"""

import math
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from fedser.common.arrays import Arrays

MOST_FREE = 64
"""Buffers kept for later, at most."""

_free: dict[int, npt.NDArray[np.uint8]] = {}  # by address


class _Loan:
    """What an array takes its memory from, and all views of it keep alive."""

    def __init__(
        self, buffer: npt.NDArray[np.uint8], shape: tuple[int, ...], dtype: npt.DTypeLike
    ) -> None:
        self.__array_interface__ = {
            "data": (buffer.ctypes.data, False),
            "shape": shape,
            "typestr": np.dtype(dtype).str,
            "version": 3,
        }
        weakref.finalize(self, _give_back, buffer).atexit = False


def borrow(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an array whose entries are not defined."""
    size = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
    # Buffers may come and go at any moment, in the midst of this, too: a copy is taken at once.
    fitting = [(len(b), at) for at, b in _free.copy().items() if size <= len(b) <= 2 * size]
    buffer = _free.pop(min(fitting)[1], None) if fitting else None
    if buffer is None or len(buffer) < size:
        buffer = np.empty(size, np.uint8)  # NumPy asks for huge pages, and PyTorch does not
    return np.asarray(_Loan(buffer, shape, dtype))


def split(flat: npt.NDArray[Any], count: int, like: Arrays) -> Arrays:
    """Return `count` arrays like each of these, stacked to (count, ...), as parts of one array."""
    cuts = np.cumsum([count * array.size for array in like.values()])
    parts = np.split(flat, cuts[:-1])
    return {
        name: part.reshape(count, *array.shape)
        for (name, array), part in zip(like.items(), parts, strict=True)
    }


def clear() -> None:
    """Give all that is not in use back to the system."""
    _free.clear()


def _give_back(buffer: npt.NDArray[np.uint8]) -> None:
    _free[buffer.ctypes.data] = buffer
    for oldest in list(_free.copy())[:-MOST_FREE]:
        _free.pop(oldest, None)
