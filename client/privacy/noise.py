"""Pure functions of the privacy mechanisms: NumPy only."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedser.common.arrays import Arrays, l2_norm


@dataclass(frozen=True)
class GradientClip:
    """The clip and the noise that local training applies to gradients.

    Attributes
    ----------
    norm : float
        Bound on the L2 norm.
    per : str
        ``batch``: clip the mean gradient of each batch (UDP). ``utterance``: clip each
        utterance's gradient before the gradients are summed and noised (DP-SGD).
    noise_multiplier : float
        Standard deviation of the noise on the sum, over `norm`.
    """

    norm: float
    per: Literal["batch", "utterance"]
    noise_multiplier: float = 0.0


def clip_factor(update: Arrays, clipping_norm: float) -> float:
    """Return the factor that scales an update to at most `clipping_norm` in L2 norm.

    The norm is taken over all arrays together. For an update that is not finite the factor is 0:
    if the client failed instead, the failure would reveal something about its data.
    """
    norm, bound = l2_norm(update), below(clipping_norm)
    if not math.isfinite(norm):
        return 0.0
    return 1.0 if norm <= bound else bound / norm


def below(clipping_norm: float) -> float:
    """Return a bound just below the norm, so that rounding never exceeds the norm."""
    return clipping_norm * (1 - 1e-6)


def keep_only(update: Arrays, shared: Collection[str]) -> Arrays:
    """Replace the parameters that are not shared by zeros."""
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
    """Return the standard deviation of user-level differential privacy as published.

    ``(2 C / n) sqrt(2 q T ln(1/delta)) / epsilon`` (Feng, Peri and Narayanan, Interspeech
    2022, after Wei et al., 2021), in units of the update. The nominal (epsilon, delta) does not
    hold: `server.privacy.udp.udp_mu` gives the real guarantee.
    """
    releases = sampling_rate * num_rounds
    return (
        2 * clipping_norm / num_examples * math.sqrt(2 * releases * math.log(1 / delta)) / epsilon
    )
