"""A pool of memory for large arrays.

The first write to new memory costs several times as much as later writes, because the system must
find and clear every page. Arrays of a round therefore take their memory from this pool. It returns
to the pool when the last reference to the array, or to a view of it, is gone.
"""

import math
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from fedser.common.arrays import Arrays

MOST_FREE = 64
"""Largest number of free buffers in the pool."""

_free: dict[int, npt.NDArray[np.uint8]] = {}  # by address


class _Owner:
    """Owner of an array's memory; the array and all its views keep it alive."""

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
    # Other threads and the garbage collector may change _free at any moment: iterate over a copy.
    fitting = [(len(b), at) for at, b in _free.copy().items() if size <= len(b) <= 2 * size]
    buffer = _free.pop(min(fitting)[1], None) if fitting else None
    if buffer is None or len(buffer) < size:
        buffer = np.empty(size, np.uint8)  # NumPy uses huge pages, unlike PyTorch
    return np.asarray(_Owner(buffer, shape, dtype))


def split(flat: npt.NDArray[Any], count: int, like: Arrays) -> Arrays:
    """Cut one vector into arrays (count, ...), one for each array in `like`."""
    cuts = np.cumsum([count * array.size for array in like.values()])
    parts = np.split(flat, cuts[:-1])
    return {
        name: part.reshape(count, *array.shape)
        for (name, array), part in zip(like.items(), parts, strict=True)
    }


def clear() -> None:
    """Return all free buffers to the system."""
    _free.clear()


def _give_back(buffer: npt.NDArray[np.uint8]) -> None:
    _free[buffer.ctypes.data] = buffer
    for oldest in list(_free.copy())[:-MOST_FREE]:
        _free.pop(oldest, None)
