"""Pure functions of the privacy mechanisms: NumPy only."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Arrays = dict[str, npt.NDArray[np.float32]]
"""Parameters or an update, by parameter name, in the order of the network."""


class NoiseSource(Protocol):
    """What noise and secret choices are drawn from; a `numpy.random.Generator` is one."""

    def random(self, size: int) -> npt.NDArray[np.float64]:
        """Return uniforms in [0, 1) of shape (size,)."""

    def standard_normal(
        self, size: tuple[int, ...], dtype: type[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Return standard normals of this shape."""


@dataclass(frozen=True)
class GradientClip:
    """What local training does to gradients.

    Attributes
    ----------
    norm : float
        Bound on the L2 norm.
    per : str
        ``batch``: of the batch's mean gradient (UDP). ``utterance``: of each utterance's
        gradient, before they are summed and noised (DP-SGD).
    noise_multiplier : float
        Standard deviation of the noise on that sum, over `norm`.
    """

    norm: float
    per: Literal["batch", "utterance"]
    noise_multiplier: float = 0.0


def l2_norm(update: Arrays) -> float:
    """Return the Euclidean norm over all arrays of an update together."""
    return math.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in update.values()))


def clip_by_norm(update: Arrays, clipping_norm: float) -> Arrays:
    """Scale an update down to at most `clipping_norm` in L2 norm over all arrays together.

    One that is not finite counts as zero: a client that failed to answer because of its data
    would give something of them away.
    """
    norm = l2_norm(update)
    if not math.isfinite(norm):
        return {name: np.zeros_like(array) for name, array in update.items()}
    if norm <= clipping_norm:
        return update
    # A hair below the bound, so that rounding to float32 does not end above it. The factor
    # itself may be too small for float32.
    factor = np.float64(clipping_norm / norm * (1 - 1e-6))
    return {name: (array * factor).astype(np.float32) for name, array in update.items()}


def add_gaussian(update: Arrays, stddev: float, noise: NoiseSource) -> Arrays:
    """Add independent N(0, stddev²) to every coordinate."""
    return {
        name: array + np.float32(stddev) * noise.standard_normal(array.shape, dtype=np.float32)
        for name, array in update.items()
    }


def keep_only(update: Arrays, shared: Collection[str]) -> Arrays:
    """Send zeros in place of the parameters that are not shared."""
    return {name: a if name in shared else np.zeros_like(a) for name, a in update.items()}


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
    `server.accountant.udp_mu` for what it gives.
    """
    releases = sampling_rate * num_rounds
    return (
        2 * clipping_norm / num_examples * math.sqrt(2 * releases * math.log(1 / delta)) / epsilon
    )
