"""Pure functions of the privacy mechanisms: NumPy only."""

import math

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[np.float32]]
"""Parameters or an update, by parameter name, in the order of the network."""


def l2_norm(update: Arrays) -> float:
    """Return the Euclidean norm over all arrays of an update together."""
    return math.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in update.values()))


def clip_by_norm(update: Arrays, clipping_norm: float) -> Arrays:
    """Scale an update down to at most `clipping_norm` in L2 norm over all arrays together.

    Raises
    ------
    ValueError
        If the update is not finite: no factor bounds it.
    """
    norm = l2_norm(update)
    if not math.isfinite(norm):
        raise ValueError("an update that is not finite cannot be clipped")
    if norm <= clipping_norm:
        return update
    # A hair below the bound, so that rounding to float32 does not end above it.
    factor = np.float32(clipping_norm / norm * (1 - 1e-6))
    return {name: array * factor for name, array in update.items()}


def add_gaussian(update: Arrays, stddev: float, rng: np.random.Generator) -> Arrays:
    """Add independent N(0, stddev²) to every coordinate."""
    return {
        name: array + np.float32(stddev) * rng.standard_normal(array.shape, dtype=np.float32)
        for name, array in update.items()
    }


def udp_stddev(
    *,
    clipping_norm: float,
    num_examples: int,
    sampling_rate: float,
    num_rounds: int,
    epsilon: float,
    delta: float,
) -> float:
    """Noise of user-level differential privacy as published, in update units.

    ``(2 C / n) sqrt(2 q T ln(1/delta)) / epsilon`` (Feng, Peri and Narayanan, Interspeech
    2022, after Wei et al., 2021). The (epsilon, delta) it is named by does not hold: see
    `server.accountant.udp_epsilon` for what it gives.
    """
    releases = sampling_rate * num_rounds
    return (
        2 * clipping_norm / num_examples * math.sqrt(2 * releases * math.log(1 / delta)) / epsilon
    )
