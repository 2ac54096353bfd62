"""What the server makes of a round's updates: a weighted mean, or a noised sum."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from client.mechanism import Arrays, NoiseSource
from client.privacy import Mechanism
from client.seeds import noise_source
from server.plan import PrivacyPlan
from server.transcript import Releases

Floats64 = npt.NDArray[np.float64]

TINY = 1e-30


@dataclass(frozen=True)
class Aggregate:
    """What a round's updates come to.

    Attributes
    ----------
    mean : Arrays
        Along which the server steps; empty where nothing was received and nothing is added.
    norms : ndarray of float, shape (k,)
        L2 norms of the updates as they were received.
    noise_stddev : float
        Noise on each coordinate: of the mean where the server adds it, else the clients' own.
    clip_fraction : float
        Share of the updates that the server scaled down.
    clipping_norm : float
        The server's own clip that was applied; NaN where it only checks its clients'.
    """

    mean: Arrays
    norms: Floats64
    noise_stddev: float
    clip_fraction: float
    clipping_norm: float = math.nan


class Aggregation(Protocol):
    """How a round is aggregated.

    Attributes
    ----------
    clipping_norm : float
        The server's own clip of the next round; NaN where it only checks its clients'.
    """

    clipping_norm: float

    def __call__(self, server_round: int, releases: Releases, model: Arrays) -> Aggregate:
        """Aggregate the updates of a round that started from `model`."""


class WeightedMean:
    """The mean of the updates, weighted by utterances where their number is known.

    An update above the norm that its mechanism allows is scaled down to it.
    """

    def __init__(self, mechanism: Mechanism) -> None:
        self._mechanism = mechanism
        self.clipping_norm = math.nan

    def __call__(self, server_round: int, releases: Releases, model: Arrays) -> Aggregate:
        """Aggregate; without any update the mean is empty."""
        if not len(releases):
            return Aggregate({}, np.zeros(0), math.nan, math.nan)
        norms, bound = update_norms(releases), self._mechanism.norm_bound(model)
        weights = releases.num_examples / releases.num_examples.sum()
        noise = [self._mechanism.stddev(n) for n in releases.num_examples.tolist()]
        return Aggregate(
            mean=_weighted_sum(releases, weights * np.minimum(1, bound / np.maximum(norms, TINY))),
            norms=norms,
            noise_stddev=float(np.mean(noise)),
            clip_fraction=float((norms > bound).mean()),
        )


class NoisedMean:
    """DP-FedAvg: clip each update, sum, add noise once, divide by the public q N.

    Every client weighs the same, and an empty cohort is noised like any other. With adaptive
    clipping the clip follows a quantile of the norms, from a count that is noised too.

    References
    ----------
    McMahan et al. (2018), arXiv:1710.06963; Andrew et al. (2021), arXiv:1905.03871.
    """

    def __init__(self, plan: PrivacyPlan, noise: Callable[[int], NoiseSource]) -> None:
        assert plan.config.clipping_norm is not None  # checked
        self._plan, self._noise = plan, noise
        self.clipping_norm = plan.config.clipping_norm
        plan.sum_stddev(self.clipping_norm)  # refuses a count noise that is too small

    def __call__(self, server_round: int, releases: Releases, model: Arrays) -> Aggregate:
        """Aggregate; `model` gives the shapes."""
        clip, noise = self.clipping_norm, self._noise(server_round)
        norms = update_norms(releases)
        # A hair below the bound, so that rounding to float32 does not end above it.
        total = _weighted_sum(releases, np.minimum(1, clip * (1 - 1e-6) / np.maximum(norms, TINY)))
        stddev, cohort = self._plan.sum_stddev(clip), self._plan.expected_cohort
        mean = {name: np.zeros_like(array) for name, array in model.items()}
        for name in self._plan.shared:
            drawn = noise.standard_normal(mean[name].shape, np.float32)
            noised = total[name] + np.float64(stddev) * drawn
            mean[name] = (noised / cohort).astype(np.float32)
        self._adapt(norms, noise)
        clipped = float((norms > clip).mean()) if len(releases) else math.nan
        return Aggregate(mean, norms, stddev / cohort, clipped, clip)

    def _adapt(self, norms: Floats64, noise: NoiseSource) -> None:
        """Move the clip towards the target quantile of the norms."""
        if self._plan.count_noise is None:
            return
        c = self._plan.config
        assert c.clip_learning_rate is not None and c.target_quantile is not None  # checked
        # Counted from one half, a client moves the count by half as much (theorem 1).
        count = float(((norms <= self.clipping_norm) - 0.5).sum())
        count += self._plan.count_noise * float(noise.standard_normal((1,), np.float32)[0])
        below = count / self._plan.expected_cohort + 0.5
        self.clipping_norm *= math.exp(-c.clip_learning_rate * (below - c.target_quantile))


def aggregation(plan: PrivacyPlan, seed: int, federation: str) -> Aggregation:
    """Return how a federation aggregates under its plan."""
    if not plan.central:
        return WeightedMean(plan.client_mechanism())
    secure = plan.config.secure_noise
    return NoisedMean(plan, lambda r: noise_source(secure, seed, federation, "sum noise", r))


def update_norms(releases: Releases) -> Floats64:
    """Return the L2 norm of each update over all its arrays, shape (k,)."""
    squares = [
        np.square(a, dtype=np.float64).sum(axis=tuple(range(1, a.ndim)))
        for a in releases.arrays.values()
    ]
    return np.asarray(np.sqrt(np.sum(squares, axis=0)))


def _weighted_sum(releases: Releases, weights: Floats64) -> Arrays:
    """Sum the updates in float32, but those in float64 whose weight is too small for float32."""
    tiny = (weights != 0) & (np.abs(weights) < np.finfo(np.float32).tiny)
    usual = np.where(tiny, 0, weights).astype(np.float32)
    total = {n: np.tensordot(usual, array, axes=1) for n, array in releases.arrays.items()}
    for row in np.flatnonzero(tiny):
        for name, array in releases.arrays.items():
            total[name] += (array[row] * weights[row]).astype(np.float32)
    return total
