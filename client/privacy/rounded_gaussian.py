"""Gaussian noise on a grid of integers, so that no bit reveals more than the distribution allows.

The noise is ``k = round(stddev * Z)`` with Z exactly standard normal. If x is an integer, then
``x + k = round(x + stddev * Z)``: the released integer is computed from the output of the
continuous Gaussian mechanism, so every bound for that mechanism holds for it without correction.
If noise is added in floating point instead, the low bits of the sum depend on x (Mironov, CCS
2012).

Z is drawn by inversion from 64 random bits: one bit for the sign and 63 for the tail probability
p. A piecewise polynomial gives the quantile of p with an error of at most `QUANTILE_ERROR`. If this
does not decide the integer (about once in a million coordinates), more bits are drawn and the
quantile is computed with as many digits as needed. The distribution is therefore exact.
"""

import math
from functools import cache
from typing import Final

import mpmath
import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from fedser.common.arrays import Arrays, Floats64, Ints
from fedser.common.jit import compiled
from fedser.common.seeds import NoiseSource

Words = npt.NDArray[np.uint64]

CELLS: Final = 1024
"""Number of equal parts of the tail probabilities 0 to 1/2, each with its own polynomial."""
TAIL_CELLS: Final = 16
"""Number of first cells that no polynomial approximates well: about one coordinate in 64."""
DEGREE: Final = 7
QUANTILE_ERROR: Final = 2.0**-44
"""Bound on the error of a quantile; measured against mpmath the error is a sixteenth of it."""
LARGEST_STDDEV: Final = 2.0**40
SMALLEST_FLOAT: Final = 1e-300
FINEST: Final = 1024
"""Grid steps per coordinate if all coordinates of an update are equal."""


def grid_step(clipping_norm: float, size: int, stddev: float = 0.0) -> float:
    """Return the step for updates of `size` coordinates with an L2 norm up to `clipping_norm`.

    The step is a power of two, so that scaling by it is exact. Truncation to its multiples changes
    an update by less than a thousandth of the clipping norm. The step is coarser only if `stddev`
    exceeds 2^30 such steps, because this noise hides the update anyway.
    """
    fine = math.floor(math.log2(clipping_norm / math.sqrt(max(1, size)) / FINEST))
    return float(2.0 ** max(fine, math.ceil(math.log2(stddev)) - 30 if stddev else fine))


def gaussian_integers(count: int, stddev: float, noise: NoiseSource) -> Ints:
    """Draw integers ``round(stddev * Z)``, shape (count,).

    Raises
    ------
    ValueError
        If `stddev` is negative, not finite or above 2^40.
    """
    drawn = np.zeros(count, np.int64)
    if _checked(stddev) > 0:
        words = noise.words(count)
        undecided = np.empty(count, np.int64)
        left = _draw(words, stddev, _polynomials(), drawn, undecided)
        rows = undecided[:left]
        drawn[rows] = _decide(words[rows], stddev, noise)
    return drawn


def add_noise(
    values: npt.NDArray[np.float32],
    factor: float,
    step: float,
    stddev: float,
    noise: NoiseSource,
) -> npt.NDArray[np.float32]:
    """Return values times a factor, truncated to multiples of `step`, plus Gaussian multiples.

    Truncation is toward zero, so that it raises no norm. Integers are added, and only their sum is
    converted to float32: the result is a function of the protected integer.

    Parameters
    ----------
    values : ndarray of float32, any shape
        Values that are not finite count as 0.
    stddev : float
        In units of the values, like `step`.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    total = gaussian_integers(len(flat), stddev / step, noise)
    noised = np.empty(len(flat), np.float32)
    _add(flat, factor / step, total, step, noised)
    return noised.reshape(values.shape)


@compiled
def add_truncated(total: Ints, values: npt.NDArray[np.float32], factor: float, step: float) -> None:
    """Add values (n,) times a factor, truncated to multiples of `step`, to integers (n,)."""
    scale = factor / step
    for i in range(len(values)):
        total[i] += _truncated(values[i], scale)


def add_gaussian(update: Arrays, stddev: float, noise: NoiseSource) -> Arrays:
    """Add independent N(0, stddev²) to every coordinate of an update without a known norm.

    The step is about a millionth of the standard deviation. Values that are not finite, or too
    large for the grid, stay unchanged: an update with these values has no bound anyway.
    """
    if stddev == 0:
        return update
    step = 2.0 ** (math.floor(math.log2(stddev)) - 20)
    noised = {name: add_noise(array, 1.0, step, stddev, noise) for name, array in update.items()}
    return {
        name: np.where(np.abs(array) < 2.0**60 * step, noised[name], array)
        for name, array in update.items()
    }


def standard_normal(noise: NoiseSource, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Draw standard normals of this shape, for noise that must be added in floating point."""
    drawn = gaussian_integers(math.prod(shape), 2.0**24, noise)
    return (drawn * 2.0**-24).astype(np.float32).reshape(shape)


def _checked(stddev: float) -> float:
    if not 0 <= stddev <= LARGEST_STDDEV:
        raise ValueError(f"stddev={stddev:g} must lie between 0 and 2^40 steps of the grid")
    return stddev


@cache
def _polynomials() -> Floats64:
    """Return coefficients (CELLS, DEGREE + 1), lowest first, of minus the quantile by cell.

    They interpolate at Chebyshev nodes; t in [0, 1) is the position in the cell.
    """
    nodes = (1 - np.cos((np.arange(DEGREE + 1) + 0.5) * np.pi / (DEGREE + 1))) / 2
    cells = np.arange(TAIL_CELLS, CELLS)
    quantiles = -ndtri((cells[:, None] + nodes) / (2 * CELLS))
    found = np.zeros((CELLS, DEGREE + 1))
    # Powers of t - 1/2 make the interpolation well conditioned.
    centred = np.linalg.solve(np.vander(nodes - 0.5, increasing=True), quantiles.T).T
    found[TAIL_CELLS:] = centred
    return found


@compiled
def _draw(words: Words, stddev: float, polynomials: Floats64, drawn: Ints, undecided: Ints) -> int:
    """Draw the integers that 64 bits and a polynomial decide; return the number of the others.

    The indices of the undecided integers are written to the front of `undecided`.
    """
    left = 0
    for i in range(len(words)):
        tail = words[i] >> np.uint64(1)
        cell = np.int64(tail >> np.uint64(53))
        t = np.float64(np.int64(tail & np.uint64((1 << 53) - 1))) * 2.0**-53 - 0.5
        c = polynomials[cell]
        low = (c[0] + c[1] * t) + (c[2] + c[3] * t) * (t * t)
        high = (c[4] + c[5] * t) + (c[6] + c[7] * t) * (t * t)
        y = stddev * (low + high * (t * t) * (t * t))
        nearest = np.rint(y)
        doubt = stddev * 2.0**-44 + y * 2.0**-50
        k = np.int64(nearest)
        drawn[i] = -k if words[i] & np.uint64(1) else k
        undecided[left] = i
        left += int(cell < 16 or 0.5 - abs(y - nearest) <= doubt)
    return left


def _decide(words: Words, stddev: float, noise: NoiseSource) -> Ints:
    """Return the integers of words in the tails or too near to a boundary for 64 bits."""
    tails = words >> np.uint64(1)
    # A word represents all p from tails to tails + 1, in units of 2^-64.
    nearest = []
    for end, side in ((tails + np.uint64(1), -1), (tails, 1)):
        y = -ndtri(end * 2.0**-64) * stddev
        nearest.append(np.rint(y + side * (stddev * QUANTILE_ERROR + y * 2.0**-50)))
    decided = nearest[0] == nearest[1]
    magnitude = nearest[0].astype(np.int64)
    for row in np.flatnonzero(~decided):
        magnitude[row] = _exact(int(tails[row]), stddev, noise)
    found: Ints = np.where(words & np.uint64(1), -magnitude, magnitude)
    return found


def _exact(tail: int, stddev: float, noise: NoiseSource) -> int:
    """Draw more bits of the tail probability until they decide the integer."""
    bits = 64
    while True:
        tail = (tail << 64) | int(noise.words(1)[0])
        bits += 64
        with mpmath.workprec(2 * bits + 64):
            ends = [
                mpmath.floor(stddev * _quantile(mpmath.ldexp(tail + end, -bits)) + 0.5)
                for end in (0, 1)
                if tail + end > 0
            ]
        if len(ends) == 2 and ends[0] == ends[1]:
            return int(ends[0])


def _quantile(p: mpmath.mpf) -> mpmath.mpf:
    """Return minus the standard normal quantile of p in (0, 1/2], by Newton's method."""
    rough = float(p) > SMALLEST_FLOAT
    x = mpmath.mpf(-ndtri(float(p))) if rough else mpmath.sqrt(-2 * mpmath.log(p))
    step = mpmath.inf
    while abs(step) > mpmath.ldexp(1, -mpmath.mp.prec // 2 - 8):  # the next step squares the error
        step = (mpmath.erfc(x / mpmath.sqrt(2)) / 2 - p) / mpmath.npdf(x)
        x += step
    return x


@compiled
def _truncated(value: float, scale: float) -> int:
    scaled = np.float64(value) * scale
    return int(scaled) if abs(scaled) < 2.0**62 else 0  # not finite, or beyond int64


@compiled
def _add(
    values: npt.NDArray[np.float32],
    scale: float,
    total: Ints,
    step: float,
    noised: npt.NDArray[np.float32],
) -> None:
    for i in range(len(values)):
        noised[i] = np.float32((_truncated(values[i], scale) + total[i]) * step)
