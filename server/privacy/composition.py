"""Composition of Gaussian releases, each of which holds a unit with some probability.

If the probability is one, composition is exact. Otherwise it uses privacy loss distributions (PLD)
or Renyi differential privacy (RDP) of Google's dp-accounting, or privacy random variables (PRV) of
Opacus. Each gives an upper bound on epsilon. The exact composition without sampling is an upper
bound too, and the smaller one is returned. If an accountant would need gigabytes or minutes, or if
its rounding errors would count, another accountant replaces it: `accountant_used` names it.
"""

import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING

from fedser.client.privacy.gaussian import gaussian_epsilon, gaussian_mu

RESOLUTION = 0.05
COARSEST = 5e-3
"""The privacy loss is discretised in steps of `RESOLUTION` times its scale q / z."""
POINTS = 2**21
"""Largest number of grid points of a composition, for seconds and megabytes."""
POINTS_OF_ONE = 50_000
"""Largest number of grid points of one release."""
LEAST_DELTA = 1e-11
"""Delta below which rounding errors of Fourier transforms count; RDP has none."""
LEAST_NOISE = 0.2
"""Noise multiplier below which sampling is ignored: accountants overflow or run out of memory
there, and epsilon is in the hundreds anyway."""
LARGEST_NOISE = 1e5
PRV_ERROR = 0.01
"""Error of epsilon that Opacus' accountant may make; epsilon is then too large, never too small."""
SHORT = 500.0
"""Epsilon up to which releases are composed one by one: the grid stays small."""
PRECISION = 1e-6
"""Relative precision of calibrated noise."""
ROUNDING = 1e-9
"""Relative margin of exact noise, so that rounding in a ledger never exceeds epsilon."""

if TYPE_CHECKING:  # the import takes a second, which runs without sampling must not wait for
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

logging.getLogger("absl").setLevel(logging.ERROR)  # silences warnings about skipped orders


@dataclass(frozen=True)
class Releases:
    """Gaussian releases of one unit of the guarantee.

    Attributes
    ----------
    count : float
        Number of releases. With `rate` 1 it may be a sum of squared sensitivities.
    rate : float
        Probability that a release holds a client, independently of all other draws.
    clients : int
        Clients of the unit, drawn independently. Adding or removing the unit then moves a release
        by a binomial number of clipping norms.
    """

    count: float
    rate: float = 1.0
    clients: int = 1


Group = tuple[Releases, float]
"""Releases and their noise multiplier (standard deviation over the sensitivity to one client)."""


def composed_epsilon(
    releases: Releases, noise_multiplier: float, delta: float, accountant: str
) -> float:
    """Return the epsilon that `releases` spend at `delta`.

    Parameters and relation are those of `groups_epsilon`, for one group.
    """
    return groups_epsilon(((releases, noise_multiplier),), delta, accountant)


@lru_cache(maxsize=1024)
def groups_epsilon(groups: tuple[Group, ...], delta: float, accountant: str) -> float:
    """Return the epsilon that groups of releases of one unit spend together at `delta`.

    Parameters
    ----------
    groups : tuple of (Releases, float)
        Each with its own noise multiplier. For sampled releases the relation is add/remove;
        otherwise it is the relation of the sensitivity that the multiplier refers to.
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
    """Return the method that `groups_epsilon` uses: ``exact``, ``pld``, ``prv`` or ``rdp``.

    Raises
    ------
    ValueError
        As `groups_epsilon` does.
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
    if accountant == "prv" and (known or _prv_points(tuple(sampled), delta) > POINTS):
        return "pld"
    return accountant


@lru_cache(maxsize=256)
def calibrated_noise(
    releases: tuple[Releases, ...], epsilon: float, delta: float, accountant: str
) -> float:
    """Return the smallest noise multiplier at which no entry of `releases` exceeds `epsilon`.

    The result may be too large by `PRECISION`, but never too small.

    Raises
    ------
    ValueError
        If a noise multiplier of 100,000 is not enough.
    """
    if all(r.rate == 1 for r in releases):
        return max(map(_moved, releases)) / gaussian_mu(epsilon, delta) * (1 + ROUNDING)

    from scipy.optimize import brentq  # slow to import

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
    """Return `composed_epsilon`, faster for counts that grow by one from call to call.

    The result depends only on the arguments, not on earlier calls.
    """
    group = (releases, noise_multiplier)
    if accountant_used([group], delta, accountant) != "pld" or _span([group], delta) > SHORT:
        return composed_epsilon(releases, noise_multiplier, delta, accountant)
    curve = _curve(releases.rate, releases.clients, noise_multiplier, delta)
    return min(gaussian_epsilon(_mu([group]), delta), curve(round(releases.count)))


def _counts_on_sampling(releases: Releases, noise_multiplier: float) -> bool:
    return releases.rate < 1 and releases.count > 0 and noise_multiplier >= LEAST_NOISE


def _moved(releases: Releases) -> float:
    """Return the L2 distance, in clipping norms, that an unsampled unit moves all releases."""
    return releases.clients * math.sqrt(releases.count)


def _mu(groups: Sequence[Group]) -> float:
    """Return the mu of Gaussian differential privacy of groups, ignoring sampling."""
    return math.hypot(0.0, *(_moved(r) / noise for r, noise in groups))


class _Curve:
    """Epsilon as a function of the number of releases, composed one after another."""

    def __init__(self, one: "PrivacyLossDistribution", delta: float) -> None:
        self._lock = Lock()
        self._one, self._delta = one, delta
        self._composed = one
        self._epsilons = [self._epsilon()]

    def __call__(self, count: int) -> float:
        with self._lock:  # concurrent federations share a curve
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
    """Return an epsilon that privacy losses rarely exceed, computed without sampling."""
    return gaussian_epsilon(_mu(groups), delta * 1e-3)


def _pld_epsilon(sampled: Sequence[Group], known_mu: float, delta: float) -> float:
    """Compose privacy loss distributions on one grid that is coarse enough for all losses."""
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

    rdp = RdpAccountant()  # relation: add or remove one
    for r, noise in sampled:
        one = PoissonSampledDpEvent(r.rate, GaussianDpEvent(noise))
        rdp.compose(SelfComposedDpEvent(one, round(r.count)))
    if known_mu:
        rdp.compose(GaussianDpEvent(1 / known_mu))
    return float(rdp.get_epsilon(delta))


@lru_cache(maxsize=1024)  # a running epsilon asks in every round, and again to compose
def _prv_points(sampled: tuple[Group, ...], delta: float) -> float:
    """Return the number of grid points that Opacus would use (Gopi et al., remark 5.6)."""
    error, total = delta / 1000, sum(round(r.count) for r, _ in sampled)
    mesh = PRV_ERROR / math.sqrt(total * math.log(12 / error) / 2)
    return 2 * (_rdp_epsilon(sampled, 0.0, error / 4) + 3) / mesh


def _prv_epsilon(sampled: Sequence[Group], known_mu: float, delta: float) -> float:
    # Opacus imports torch: commands that do not use this accountant must not wait for the import.
    from opacus.accountants import PRVAccountant

    prv = PRVAccountant()
    prv.history = [(noise, r.rate, round(r.count)) for r, noise in sampled]
    with warnings.catch_warnings():
        # It sizes its grid by RDP and warns if that bound could be tighter.
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
    from scipy.stats import binom  # slow to import

    held = range(clients + 1)
    return from_mixture_gaussian_mechanism(
        noise_multiplier,
        sensitivities=[float(j) for j in held],
        sampling_probs=binom.pmf(held, clients, rate).tolist(),
        value_discretization_interval=step,
    )
