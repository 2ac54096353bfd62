"""Composition of Gaussian releases that a unit takes part in with some probability.

Exact where the probability is one; otherwise by privacy loss distributions (PLD) or Renyi
differential privacy (RDP) of Google's dp-accounting, or by the privacy random variables (PRV)
of Opacus. Each gives an upper bound, and so does the exact composition without sampling: the
smaller of the two is returned. Where an accountant would need gigabytes or minutes, or its rounding
errors would count, another one takes its place: `accountant_used` names it.
"""

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING

from scipy.optimize import brentq
from scipy.stats import binom

from fedser.server.privacy.gaussian import gaussian_epsilon, gaussian_mu

RESOLUTION = 0.05
COARSEST = 5e-3
"""The privacy loss is discretised in steps of `RESOLUTION` times its scale q / z."""
POINTS = 2**21
"""Most points of a grid of privacy losses, so that a composition takes seconds and megabytes."""
POINTS_OF_ONE = 50_000
"""The same of one release."""
LEAST_DELTA = 1e-11
"""Delta below which rounding errors of Fourier transforms count: Renyi composition has none."""
LEAST_NOISE = 0.2
"""Noise multiplier below which sampling is not counted on: accountants overflow or run out of
memory there, at an epsilon of hundreds."""
LARGEST_NOISE = 1e5
PRV_ERROR = 0.01
"""Error of epsilon that Opacus' accountant may make, on the safe side."""
SHORT = 500.0
"""Epsilon up to which a curve is composed release by release: its grid stays small."""
PRECISION = 1e-6
"""Of calibrated noise, relative."""
ROUNDING = 1e-9
"""By which exact noise is larger, so that a ledger's rounded sums do not end above epsilon."""

if TYPE_CHECKING:  # it takes a second to import, which runs without sampling need not wait for
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

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


Group = tuple[Releases, float]
"""Releases, and the noise multiplier (standard deviation over the sensitivity to one client)."""


def composed_epsilon(
    releases: Releases, noise_multiplier: float, delta: float, accountant: str
) -> float:
    """Return the epsilon that `releases` spend at `delta`, add/remove where they are sampled.

    Parameters are those of `compose`, for one group.
    """
    return compose(((releases, noise_multiplier),), delta, accountant)


@lru_cache(maxsize=1024)
def compose(groups: tuple[Group, ...], delta: float, accountant: str) -> float:
    """Return the epsilon that groups of releases of one unit spend together at `delta`.

    Parameters
    ----------
    groups : tuple of (Releases, float)
        Each with its own noise multiplier. Add/remove where releases are sampled; otherwise the
        relation of the sensitivity that the multiplier is given for.
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
    used = accountant_used(groups, delta, accountant)
    unsampled = gaussian_epsilon(_mu(groups), delta)
    if used == "exact":
        return unsampled
    sampled = [(r, noise) for r, noise in groups if _counts_on_sampling(r, noise)]
    known = _mu([(r, noise) for r, noise in groups if not _counts_on_sampling(r, noise)])
    compute = {"pld": _pld_epsilon, "prv": _prv_epsilon, "rdp": _rdp_epsilon}[used]
    return min(unsampled, max(0.0, compute(sampled, known, delta)))


def accountant_used(groups: Sequence[Group], delta: float, accountant: str) -> str:
    """Return what `compose` really uses: ``exact``, ``pld``, ``prv`` or ``rdp``.

    Raises
    ------
    ValueError
        As `compose` does.
    """
    sampled = [(r, noise) for r, noise in groups if _counts_on_sampling(r, noise)]
    if not sampled:
        return "exact"
    several = any(r.clients > 1 for r, _ in sampled)
    if several and accountant != "pld":
        raise ValueError(f"{accountant} cannot account for several clients of a unit")
    if delta < LEAST_DELTA and accountant != "rdp":
        return "exact" if several else "rdp"
    known = len(sampled) < len(groups)
    if accountant == "prv" and (known or _prv_points(sampled, delta) > POINTS):
        return "pld"
    return accountant


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
    group = (releases, noise_multiplier)
    if accountant_used([group], delta, accountant) != "pld" or _span([group], delta) > SHORT:
        return composed_epsilon(releases, noise_multiplier, delta, accountant)
    curve = _curve(releases.rate, releases.clients, noise_multiplier, delta)
    return min(gaussian_epsilon(_mu([group]), delta), curve(round(releases.count)))


def _counts_on_sampling(releases: Releases, noise_multiplier: float) -> bool:
    return releases.rate < 1 and releases.count > 0 and noise_multiplier >= LEAST_NOISE


def _moved(releases: Releases) -> float:
    """Return by how many clipping norms a unit that is always whole moves all releases together."""
    return releases.clients * math.sqrt(releases.count)


def _mu(groups: Sequence[Group]) -> float:
    """Return the mu of Gaussian differential privacy of groups that hold every client."""
    return math.hypot(0.0, *(_moved(r) / noise for r, noise in groups))


class _Curve:
    """Epsilon over the number of releases, each composed with the ones before it."""

    def __init__(self, one: "PrivacyLossDistribution", delta: float) -> None:
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
    return _Curve(
        _loss(rate, clients, noise_multiplier, _step(rate, clients, noise_multiplier)), delta
    )


def _step(rate: float, clients: int, noise_multiplier: float) -> float:
    fine = min(COARSEST, RESOLUTION * clients * rate / noise_multiplier)
    mu = clients / noise_multiplier
    return max(fine, (mu * mu / 2 + 10 * mu) / POINTS_OF_ONE)


def _span(groups: Sequence[Group], delta: float) -> float:
    """Return an epsilon that privacy losses hardly exceed: that without sampling."""
    return gaussian_epsilon(_mu(groups), delta * 1e-3)


def _pld_epsilon(sampled: Sequence[Group], known_mu: float, delta: float) -> float:
    """Compose privacy loss distributions on one grid, coarse enough to hold all losses."""
    finest = min(_step(r.rate, r.clients, noise) for r, noise in sampled)
    step = max(finest, _span(sampled, delta) / POINTS, known_mu**2 / POINTS)
    losses = [
        _loss(r.rate, r.clients, noise, step).self_compose(round(r.count)) for r, noise in sampled
    ]
    if known_mu:
        losses.append(_loss(1.0, 1, 1 / known_mu, step))
    together = losses[0]
    for loss in losses[1:]:
        together = together.compose(loss)
    return float(together.get_epsilon_for_delta(delta))


def _rdp_epsilon(sampled: Sequence[Group], known_mu: float, delta: float) -> float:
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
    from dp_accounting.rdp import RdpAccountant

    rdp = RdpAccountant()  # data sets differ by one more or less
    for r, noise in sampled:
        one = PoissonSampledDpEvent(r.rate, GaussianDpEvent(noise))
        rdp.compose(SelfComposedDpEvent(one, round(r.count)))
    if known_mu:
        rdp.compose(GaussianDpEvent(1 / known_mu))
    return float(rdp.get_epsilon(delta))


def _prv_points(sampled: Sequence[Group], delta: float) -> float:
    """Return the points of the grid that Opacus would build (Gopi et al., remark 5.6)."""
    error, total = delta / 1000, sum(round(r.count) for r, _ in sampled)
    mesh = PRV_ERROR / math.sqrt(total * math.log(12 / error) / 2)
    return 2 * (_rdp_epsilon(sampled, 0.0, error / 4) + 3) / mesh


def _prv_epsilon(sampled: Sequence[Group], known_mu: float, delta: float) -> float:
    # Opacus imports torch: a command that does not ask for this accountant must not wait for it.
    from opacus.accountants import PRVAccountant

    prv = PRVAccountant()
    prv.history = [(noise, r.rate, round(r.count)) for r, noise in sampled]
    with warnings.catch_warnings():
        # It sizes its grid by RDP, and says where that bound could be tighter.
        warnings.simplefilter("ignore", UserWarning)
        return float(prv.get_epsilon(delta, eps_error=PRV_ERROR))


@lru_cache(maxsize=64)
def _loss(
    rate: float, clients: int, noise_multiplier: float, step: float
) -> "PrivacyLossDistribution":
    from dp_accounting.pld.privacy_loss_distribution import (
        from_gaussian_mechanism,
        from_mixture_gaussian_mechanism,
    )

    if clients == 1:
        return from_gaussian_mechanism(
            noise_multiplier,
            value_discretization_interval=step,
            sampling_prob=rate,
        )
    held = range(clients + 1)
    return from_mixture_gaussian_mechanism(
        noise_multiplier,
        sensitivities=[float(j) for j in held],
        sampling_probs=binom.pmf(held, clients, rate).tolist(),
        value_discretization_interval=step,
    )
