"""Composition of Gaussian releases that a unit takes part in with some probability.

Exact where the probability is one; otherwise by privacy loss distributions (PLD) or Renyi
differential privacy (RDP) of Google's dp-accounting, or by the privacy random variables (PRV)
of Opacus. Each gives an upper bound.
"""

import logging
import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

from dp_accounting import (
    GaussianDpEvent,
    NeighboringRelation,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)
from dp_accounting.pld.privacy_loss_distribution import (
    PrivacyLossDistribution,
    from_gaussian_mechanism,
    from_mixture_gaussian_mechanism,
)
from dp_accounting.rdp import RdpAccountant
from scipy.optimize import brentq
from scipy.stats import binom

from server.gaussian import gaussian_epsilon, gaussian_mu

ADD_REMOVE = NeighboringRelation.ADD_OR_REMOVE_ONE
RESOLUTION = 0.05
COARSEST = 5e-3
"""The privacy loss is discretised in steps of `RESOLUTION` times its scale q / z."""
LEAST_NOISE = 0.2
"""Noise multiplier below which sampling is not counted on: accountants overflow or run out of
memory there, at an epsilon of hundreds."""
LARGEST_NOISE = 1e5
PRECISION = 1e-6
"""Of calibrated noise, relative."""
ROUNDING = 1e-9
"""By which exact noise is larger, so that a ledger's rounded sums do not end above epsilon."""

logging.getLogger("absl").setLevel(logging.ERROR)  # dp-accounting reports orders it leaves out


@dataclass(frozen=True)
class Releases:
    """Gaussian releases as one unit of the guarantee sees them.

    Attributes
    ----------
    count : float
        How many; with `rate` 1 a sum of squared sensitivities will do.
    rate : float
        Probability that a release holds a client, independently of all else.
    clients : int
        Clients of the unit, each drawn by itself. Adding or removing the unit then moves a
        release by a binomial number of clipping norms.
    """

    count: float
    rate: float = 1.0
    clients: int = 1


def composed_epsilon(
    releases: Releases, noise_multiplier: float, delta: float, accountant: str
) -> float:
    """Return the epsilon that `releases` spend at `delta`, add/remove where they are sampled.

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation over the sensitivity to one client.
    accountant : str
        ``pld``, ``prv`` or ``rdp``; exact composition needs none of them.

    Raises
    ------
    ValueError
        If several clients of a unit are drawn and the accountant is not ``pld``.

    References
    ----------
    Koskela, Jalko and Honkela (2020), PLD; Gopi, Lee and Wutschitz (2021), PRV; Mironov, Talwar
    and Zhang (2019), RDP; Choquette-Choo et al. (ICLR 2024), mixtures of Gaussians.
    """
    if not _counts_on_sampling(releases, noise_multiplier):
        return gaussian_epsilon(_moved(releases) / noise_multiplier, delta)
    if releases.clients > 1 and accountant != "pld":
        raise ValueError(f"{accountant} cannot account for several clients of a unit")
    return _sampled_epsilon(releases, noise_multiplier, delta, accountant)


def calibrated_noise(
    releases: tuple[Releases, ...], epsilon: float, delta: float, accountant: str
) -> float:
    """Return the smallest noise multiplier at which no entry of `releases` exceeds `epsilon`.

    Within `PRECISION`, on the safe side.

    Raises
    ------
    ValueError
        If even a noise multiplier of 100,000 would not do.
    """
    if all(r.rate == 1 for r in releases):
        return max(map(_moved, releases)) / gaussian_mu(epsilon, delta) * (1 + ROUNDING)

    def excess(log_noise: float) -> float:
        noise = math.exp(log_noise)
        return max(composed_epsilon(r, noise, delta, accountant) for r in releases) - epsilon

    high = 0.0
    while excess(high) > 0:
        high += math.log(2)
        if high > math.log(LARGEST_NOISE):
            raise ValueError("no noise is enough")
    low = high - math.log(2)
    while excess(low) <= 0:
        high, low = low, low - math.log(2)
    root = float(brentq(excess, low, high, xtol=PRECISION / 8)) + PRECISION / 4
    while excess(root) > 0:
        root += PRECISION / 2
    return math.exp(root)


def running_epsilon(
    releases: Releases, noise_multiplier: float, delta: float, accountant: str
) -> float:
    """Return what `composed_epsilon` does, faster for counts that grow by one from call to call.

    The result depends on the arguments alone and not on what was asked before.
    """
    if accountant != "pld" or not _counts_on_sampling(releases, noise_multiplier):
        return composed_epsilon(releases, noise_multiplier, delta, accountant)
    curve = _curve(releases.rate, releases.clients, noise_multiplier, delta)
    return curve(round(releases.count))


def _counts_on_sampling(releases: Releases, noise_multiplier: float) -> bool:
    return releases.rate < 1 and releases.count > 0 and noise_multiplier >= LEAST_NOISE


def _moved(releases: Releases) -> float:
    """Return by how many clipping norms a unit that is always whole moves all releases together."""
    return releases.clients * math.sqrt(releases.count)


class _Curve:
    """Epsilon over the number of releases, each composed with the ones before it."""

    def __init__(self, one: PrivacyLossDistribution, delta: float) -> None:
        self._lock = Lock()
        self._one, self._delta = one, delta
        self._composed = one
        self._epsilons = [self._epsilon()]

    def __call__(self, count: int) -> float:
        with self._lock:  # federations that run side by side share a curve
            while len(self._epsilons) < count:
                self._composed = self._composed.compose(self._one)
                self._epsilons.append(self._epsilon())
            return self._epsilons[count - 1]

    def _epsilon(self) -> float:
        return float(self._composed.get_epsilon_for_delta(self._delta))


@lru_cache(maxsize=64)
def _curve(rate: float, clients: int, noise_multiplier: float, delta: float) -> _Curve:
    return _Curve(_loss(rate, clients, noise_multiplier), delta)


@lru_cache(maxsize=1024)
def _sampled_epsilon(
    releases: Releases, noise_multiplier: float, delta: float, accountant: str
) -> float:
    count = round(releases.count)
    if accountant == "rdp":
        return _rdp_epsilon(releases.rate, noise_multiplier, count, delta)
    if accountant == "prv":
        # Opacus imports torch, which whoever does not ask for it should not wait for.
        from opacus.accountants import PRVAccountant

        prv = PRVAccountant()
        prv.history = [(noise_multiplier, releases.rate, count)]
        with warnings.catch_warnings():
            # It sizes its grid by RDP, and says where that bound could be tighter.
            warnings.simplefilter("ignore", UserWarning)
            return float(prv.get_epsilon(delta))
    loss = _loss(releases.rate, releases.clients, noise_multiplier).self_compose(count)
    return float(loss.get_epsilon_for_delta(delta))


def _rdp_epsilon(rate: float, noise_multiplier: float, count: int, delta: float) -> float:
    rdp = RdpAccountant(neighboring_relation=ADD_REMOVE)
    one = PoissonSampledDpEvent(rate, GaussianDpEvent(noise_multiplier))
    rdp.compose(SelfComposedDpEvent(one, count))
    return float(rdp.get_epsilon(delta))


@lru_cache(maxsize=64)
def _loss(rate: float, clients: int, noise_multiplier: float) -> PrivacyLossDistribution:
    scale = clients * rate / noise_multiplier
    step = min(COARSEST, RESOLUTION * scale)
    if clients == 1:
        return from_gaussian_mechanism(
            noise_multiplier,
            value_discretization_interval=step,
            sampling_prob=rate,
            neighboring_relation=ADD_REMOVE,
        )
    held = range(clients + 1)
    return from_mixture_gaussian_mechanism(
        noise_multiplier,
        sensitivities=[float(j) for j in held],
        sampling_probs=binom.pmf(held, clients, rate).tolist(),
        value_discretization_interval=step,
    )
