"""The participation ledger of a federation, and the privacy truly spent."""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from copy import copy

import numpy as np

from client.privacy import UserLevelDP
from client.training_config import TrainingConfig
from server.composition import Releases, running_epsilon
from server.plan import PrivacyPlan
from server.privacy_config import CENTRAL, PrivacyConfig


class Ledger:
    """Who released what, round by round: planned beforehand, or spent.

    Parameters
    ----------
    rate : float
        Sampling rate of Poisson cohorts.
    units : sequence of hashable, length N
        What is protected: the client itself, or the speaker who may hold several.
    batches : sequence of Releases, length N
        What one update of each client releases of its utterances.
    mus : sequence of float, length N
        Sensitivity over noise of one release of each client.

    Attributes
    ----------
    releases : Counter
        How often each client's update may have left its device.
    """

    def __init__(
        self,
        privacy: PrivacyConfig,
        rate: float,
        units: Sequence[Hashable],
        batches: Sequence[Releases],
        mus: Sequence[float],
    ) -> None:
        self._privacy, self._rate, self._units = privacy, rate, units
        self._batches, self._mus = batches, mus
        self._clients_a_unit = max(Counter(units).values(), default=1)
        self._squared: defaultdict[Hashable, float] = defaultdict(float)
        self._rounds = 0
        self.releases: Counter[int] = Counter()

    def add(self, cohort: Iterable[int]) -> None:
        """Note a round and its clients."""
        present = {client: self._mus[client] for client in cohort}
        together = self._privacy.mechanism in CENTRAL
        for unit, cost in squared_sensitivities(present, self._units, together).items():
            self._squared[unit] += cost
        self.releases.update(present.keys())
        self._rounds += 1

    def copy(self) -> "Ledger":
        """Return a ledger that goes on from here by itself."""
        other = copy(self)
        other._squared, other.releases = self._squared.copy(), self.releases.copy()
        return other

    @property
    def exposures(self) -> tuple[Releases, ...]:
        """What was released of the units that may be worst off, against the plan's vantage.

        Of a unit without releases nothing is; secret cohorts may always have held it.
        """
        if self._privacy.unit == "utterance":
            updates = ((self._batches[client], n) for client, n in self.releases.items())
            found = {Releases(batch.count * n, batch.rate) for batch, n in updates}
            return tuple(sorted(found, key=lambda r: (r.rate, r.count)))
        if self._privacy.vantage == "outsider":
            return (Releases(self._rounds, self._rate, self._clients_a_unit),)
        return self.known

    @property
    def known(self) -> tuple[Releases, ...]:
        """The same against whoever knows who took part."""
        return (Releases(max(self._squared.values())),) if self._squared else ()


class Accountant:
    """Keeps the ledger of a federation, and says what was spent.

    Parameters
    ----------
    sizes : sequence of int, length N
        Training utterances of each client.
    units : sequence of hashable, length N
        As in `Ledger`.
    num_parameters : int
        Shared weights d.
    algorithm : str
        ``fedavg`` or ``fedsgd``.

    Attributes
    ----------
    cohorts : list of list of int
        Clients whose update may have left its device, a list a round.
    """

    def __init__(
        self,
        plan: PrivacyPlan,
        sizes: Sequence[int],
        units: Sequence[Hashable],
        num_parameters: int,
        algorithm: str,
        training: TrainingConfig,
    ) -> None:
        self._plan, mechanism = plan, plan.client_mechanism()
        # In units of the plan's noise multiplier where it has one; UDP's noise is each client's.
        self._noise_multiplier, mus = plan.noise_multiplier, [1.0] * len(sizes)
        if isinstance(mechanism, UserLevelDP):
            self._noise_multiplier = 1.0
            mus = [udp_mu(mechanism, n, num_parameters, algorithm, training) for n in sizes]
        batches = [batch_releases(n, algorithm, training) for n in sizes]
        self._ledger = Ledger(plan.config, plan.sampling_rate, units, batches, mus)
        self.cohorts: list[list[int]] = []

    def add(self, cohort: Iterable[int]) -> None:
        """Note a round and the clients whose update may have left its device in it."""
        self.cohorts.append(sorted(cohort))
        self._ledger.add(self.cohorts[-1])

    @property
    def releases(self) -> Counter[int]:
        """How often each client is in the ledger."""
        return self._ledger.releases

    @property
    def epsilon(self) -> float:
        """Spent so far by the unit that spent most, against the plan's vantage.

        Infinite without a guarantee, before the first round too.
        """
        return self._spent(self._ledger.exposures)

    @property
    def known_epsilon(self) -> float | None:
        """The same against whoever knows who took part; None where `epsilon` assumes it."""
        return self._spent(self._ledger.known) if self._plan.config.vantage == "outsider" else None

    def overspends(self, cohort: Iterable[int]) -> bool:
        """Tell whether a round with this cohort would spend more than the plan allows."""
        limit = self._plan.config.stop_at_epsilon
        if limit is None:
            return False
        after = self._ledger.copy()
        after.add(cohort)
        return self._spent(after.exposures) > limit

    def _spent(self, exposures: Iterable[Releases]) -> float:
        if self._noise_multiplier is None:
            return math.inf
        c, noise = self._plan.config, self._noise_multiplier
        spent = (running_epsilon(r, noise, c.delta, c.accountant or "") for r in exposures)
        return max(spent, default=0.0)


def planned_exposures(
    privacy: PrivacyConfig,
    cohorts: Sequence[Sequence[int]],
    rate: float,
    sizes: Sequence[int],
    units: Sequence[Hashable],
    algorithm: str,
    training: TrainingConfig,
) -> tuple[Releases, ...]:
    """Return what a schedule of cohorts will release of the units that may be worst off.

    Parameters
    ----------
    cohorts : sequence of sequence of int
        Clients of each round; for secret cohorts only how many rounds there are matters.
    rate, units
        As in `Ledger`.
    """
    batches = [batch_releases(n, algorithm, training) for n in sizes]
    ledger = Ledger(privacy, rate, units, batches, [1.0] * len(sizes))
    for cohort in cohorts:
        ledger.add(cohort)
    return ledger.exposures or (Releases(1),)


def squared_sensitivities(
    mus: dict[int, float], units: Sequence[Hashable], together: bool
) -> dict[Hashable, float]:
    """Return how far a round moves what is released of each unit, squared, over the noise.

    Parameters
    ----------
    mus : dict of client to float
        Sensitivity over noise of the round's clients.
    together : bool
        Whether their updates are summed before one noise is added, so that a unit's clients
        add up; noised one by one, their squares do.
    """
    by_unit: dict[Hashable, list[float]] = {}
    for client, mu in mus.items():
        by_unit.setdefault(units[client], []).append(mu)
    if together:
        return {unit: sum(own) ** 2 for unit, own in by_unit.items()}
    return {unit: sum(mu * mu for mu in own) for unit, own in by_unit.items()}


def batch_releases(num_examples: int, algorithm: str, training: TrainingConfig) -> Releases:
    """Return what one update by DP-SGD releases of each utterance of a client."""
    steps = 1 if algorithm == "fedsgd" else training.steps(num_examples)
    return Releases(steps, training.sampling_rate(num_examples))


def udp_mu(
    mechanism: UserLevelDP,
    num_examples: int,
    dimension: int,
    algorithm: str,
    config: TrainingConfig,
) -> float:
    """Sensitivity over noise of one UDP release, replacing all data of the client.

    The sensitivity is that of the code as published, not of its claim 2 C / n: an Adam update
    is bounded by `adam_sensitivity`, a clipped gradient (FedSGD) by 2 C.
    """
    if algorithm == "fedsgd":
        sensitivity = 2 * mechanism.gradient_clip
    else:
        sensitivity = adam_sensitivity(dimension, config.steps(num_examples), config)
    return sensitivity / mechanism.stddev(num_examples)


def adam_sensitivity(dimension: int, steps: int, config: TrainingConfig) -> float:
    """Bound on how far replacing all of a client's data moves an Adam update, in L2 norm.

    Adam's step in a coordinate is ``lr |sum a_i g_i| / sqrt(sum b_i g_i^2)``, at most
    ``lr sqrt(sum a_i^2 / b_i)`` by Cauchy and Schwarz, whatever the gradients are: exactly lr in
    the first step. Clipping gradients does not lower it. Two updates differ by up to twice
    the norm of one.

    Parameters
    ----------
    dimension : int
        Number of shared weights d.
    steps : int
        Adam steps in one update.
    """
    total = 0.0
    for t in range(1, steps + 1):
        age = np.arange(t)[::-1]
        a = (1 - config.beta1) * config.beta1**age / (1 - config.beta1**t)
        b = (1 - config.beta2) * config.beta2**age / (1 - config.beta2**t)
        total += math.sqrt(float(np.sum(a * a / b)))
    return 2 * config.learning_rate * math.sqrt(dimension) * total
