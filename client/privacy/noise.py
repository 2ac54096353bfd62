"""Pure functions of the privacy mechanisms: NumPy only."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedser.common.arrays import Arrays, l2_norm


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


def clip_factor(update: Arrays, clipping_norm: float) -> float:
    """Return the factor that scales an update to at most `clipping_norm` in L2 norm.

    The norm is taken over all arrays together. An update that is not finite counts as zero: a
    client that failed to answer because of its data would reveal something about the data.
    """
    norm, bound = l2_norm(update), below(clipping_norm)
    if not math.isfinite(norm):
        return 0.0
    return 1.0 if norm <= bound else bound / norm


def below(clipping_norm: float) -> float:
    """Return a bound so little below the norm that rounding does not end above it."""
    return clipping_norm * (1 - 1e-6)


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
    `server.privacy.accountant.udp_mu` for what it gives.
    """
    releases = sampling_rate * num_rounds
    return (
        2 * clipping_norm / num_examples * math.sqrt(2 * releases * math.log(1 / delta)) / epsilon
    )
