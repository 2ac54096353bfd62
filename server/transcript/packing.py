"""Half-precision arrays, each divided by a power of two of its own."""

import math

import numpy as np
import numpy.typing as npt

from fedser.common.arrays import Floats
from fedser.common.jit import as_rows, compiled, sum_of_squares

Halves = npt.NDArray[np.float16]

BLOCK = 2048
"""Entries packed at a time: they stay in a core's first cache."""


def pack(arrays: Floats, packed: Halves, scale: Floats) -> None:
    """Write k arrays (k, ...) to `packed`, each divided by a power of two `scale` (k,).

    The power takes an array's norm to between 2^14 and 2^15, so that no entry overflows: what
    is lost is mantissa alone. An entry of at least 2^-28 of the norm is off by at most 2^-11 of
    itself, half a unit in the last place, and a smaller one, subnormal in float16, by at most
    2^-39 of the norm. Of 253,000 entries a typical one is 2^-9 of the norm.

    Parameters
    ----------
    arrays : ndarray of float32, shape (k, ...)
        Up to 3.4e38, beyond which rounding leads to infinity; may be read-only.
    """
    rows = as_rows(arrays)
    _pack(rows, packed.view(np.uint16).reshape(rows.shape), scale)


@compiled
def _pack(arrays: Floats, packed: npt.NDArray[np.uint16], scale: Floats) -> None:
    """Round as IEEE 754 does, to even; no compiler for NumPy knows half precision."""
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
                if magnitude < np.uint32(0x38800000):  # 2^-14: subnormal from here on
                    # Next to 0.5, a unit of float32 is the smallest half.
                    rounded = raised_bits[i] - np.uint32(0x3F000000)
                else:  # the exponent's bias changes by 112, the mantissa loses 13 bits
                    odd = (magnitude >> np.uint32(13)) & np.uint32(1)
                    magnitude += np.uint32(0xFFF) + odd - np.uint32(112 << 23)
                    rounded = magnitude >> np.uint32(13)
                sign = (bits[i] >> np.uint32(16)) & np.uint32(0x8000)
                halves[i] = np.uint16(rounded | sign)


def unpack(packed: npt.NDArray[np.generic], scale: npt.NDArray[np.generic]) -> Floats:
    """Return what was packed, (k, ...)."""
    widened = packed.astype(np.float32)
    widened *= scale.astype(np.float32).reshape(-1, *[1] * (widened.ndim - 1))
    return widened
