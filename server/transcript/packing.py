"""Pack arrays in half precision; each is divided by its own power of two."""

import math

import numpy as np
import numpy.typing as npt

from fedser.common.arrays import Floats
from fedser.common.jit import as_rows, compiled, sum_of_squares

Halves = npt.NDArray[np.float16]

BLOCK = 2048
"""Entries packed at a time: this many stay in the first cache of a core."""


def pack(arrays: Floats, packed: Halves, scale: Floats) -> None:
    """Write k arrays (k, ...) to `packed`, each divided by a power of two `scale` (k,).

    After the division the norm of an array lies between 2^14 and 2^15, so no entry overflows, and
    only bits of the mantissa are lost. The error of an entry of at least 2^-28 of the norm is at
    most 2^-11 of the entry (half a unit in the last place). The error of a smaller entry, which is
    subnormal in float16, is at most 2^-39 of the norm. In an array of 253,000 entries a typical
    entry is 2^-9 of the norm.

    Parameters
    ----------
    arrays : ndarray of float32, shape (k, ...)
        Values up to 3.4e38: above, rounding gives infinity. May be read-only.
    """
    rows = as_rows(arrays)
    _pack(rows, packed.view(np.uint16).reshape(rows.shape), scale)


@compiled
def _pack(arrays: Floats, packed: npt.NDArray[np.uint16], scale: Floats) -> None:
    """Round to even as IEEE 754 does; numba has no half precision, so bits are set here."""
    scaled, raised = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    bits, raised_bits = scaled.view(np.uint32), raised.view(np.uint32)
    for row in range(len(arrays)):
        array = arrays[row]
        # Both the power and its inverse are normal numbers.
        exponent = math.frexp(math.sqrt(sum_of_squares(array)))[1] - 15
        exponent = min(max(exponent, -126), 126)
        scale[row] = math.ldexp(1.0, exponent)
        factor = np.float32(math.ldexp(1.0, -exponent))
        for start in range(0, len(array), BLOCK):
            part, halves = array[start : start + BLOCK], packed[row, start : start + BLOCK]
            for i in range(len(part)):
                scaled[i] = part[i] * factor
                raised[i] = abs(scaled[i]) + np.float32(0.5)
            for i in range(len(part)):
                magnitude = bits[i] & np.uint32(0x7FFFFFFF)
                if magnitude < np.uint32(0x38800000):  # below 2^-14 a half is subnormal
                    # Next to 0.5 the spacing of float32 equals the smallest half.
                    rounded = raised_bits[i] - np.uint32(0x3F000000)
                else:  # the exponent's bias changes by 112, the mantissa loses 13 bits
                    odd = (magnitude >> np.uint32(13)) & np.uint32(1)
                    magnitude += np.uint32(0xFFF) + odd - np.uint32(112 << 23)
                    rounded = magnitude >> np.uint32(13)
                sign = (bits[i] >> np.uint32(16)) & np.uint32(0x8000)
                halves[i] = np.uint16(rounded | sign)


def unpack(packed: npt.NDArray[np.generic], scale: npt.NDArray[np.generic]) -> Floats:
    """Return the arrays that `pack` packed, shape (k, ...)."""
    widened = packed.astype(np.float32)
    widened *= scale.astype(np.float32).reshape(-1, *[1] * (widened.ndim - 1))
    return widened
