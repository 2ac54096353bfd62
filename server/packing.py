"""Half-precision arrays, each divided by a power of two of its own."""

import math

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]

BLOCK = 2**18
"""Entries packed at a time: 1 MiB of float32, which stays in a core's cache."""
FITTING = (1e-20, 1e36)
"""Sums of squares that float32 tells well."""


def pack(arrays: Floats, packed: Halves, scale: Floats) -> None:
    """Write k arrays (k, ...) to `packed`, each divided by a power of two `scale` (k,).

    The power takes an array's norm to between 2^14 and 2^15, so that no entry overflows: what
    is lost is mantissa alone. An entry of at least 2^-28 of the norm is off by at most 2^-11 of
    itself, half a unit in the last place, and a smaller one, subnormal in float16, by at most
    2^-39 of the norm. Of 253,000 entries a typical one is 2^-9 of the norm.

    The norm is chosen because it is found at a tenth of the price of the largest magnitude.

    Parameters
    ----------
    arrays : ndarray of float32, shape (k, ...)
        Up to 3.4e38, beyond which rounding leads to infinity; may be read-only.
    """
    width = math.prod(arrays.shape[1:])
    rows = max(1, BLOCK // max(1, width))
    flat, halves = arrays.reshape(-1, width), torch.from_numpy(packed.reshape(-1, width))
    scaled = np.empty((min(rows, len(flat)), width), dtype=np.float32)
    for start in range(0, len(flat), rows):
        block = flat[start : start + rows]
        exponent = np.frexp(np.sqrt(_squares(block)))[1] - 15
        exponent = np.clip(exponent, -126, 126)  # both the power and its inverse are normal
        np.ldexp(np.float32(1), exponent, out=scale[start : start + rows])
        np.multiply(block, np.ldexp(np.float32(1), -exponent)[:, None], out=scaled[: len(block)])
        # NumPy's own cast takes three times as long.
        halves[start : start + rows].copy_(torch.from_numpy(scaled[: len(block)]))


def unpack(packed: npt.NDArray[np.generic], scale: npt.NDArray[np.generic]) -> Floats:
    """Return what was packed, (k, ...)."""
    widened = packed.astype(np.float32)
    widened *= scale.astype(np.float32).reshape(-1, *[1] * (widened.ndim - 1))
    return widened


def _squares(block: Floats) -> npt.NDArray[np.float64]:
    """Return each row's sum of squares; in float64 where these are very small or large."""
    squares: npt.NDArray[np.float64] = np.einsum("ij,ij->i", block, block).astype(np.float64)
    extreme = ~((squares > FITTING[0]) & (squares < FITTING[1]))
    if extreme.any():
        wide = block[extreme].astype(np.float64)
        squares[extreme] = np.einsum("ij,ij->i", wide, wide)
    return squares
