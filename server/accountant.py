"""The participation ledger of a federation, and the privacy truly spent."""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from copy import deepcopy

import numpy as np

from client.privacy import UserLevelDP
from client.training import TrainingConfig
from server.composition import Releases
from server.gaussian import gaussian_epsilon
from server.plan import PrivacyPlan
from server.privacy_config import PrivacyConfig


class Accountant:
    """Keeps what each client released, round by round, and says what was spent.

    Parameters
    ----------
    sizes : sequence of int, length N
        Training utterances of each client.
    units : sequence of hashable, length N
        What is protected: the client itself, or the speaker who may hold several.
    num_parameters : int
        Shared weights d.
    algorithm : str
        ``fedavg`` or ``fedsgd``.

    Attributes
    ----------
    cohorts : list of list of int
        The ledger: clients whose update may have left its device, a list a round.
    releases : Counter
        How often each client is in it.
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
        self._plan, self._units = plan, units
        self._clients_a_unit = max(Counter(units).values(), default=1)
        self._batches = [batch_releases(n, algorithm, training) for n in sizes]
        mechanism, noise_multiplier = plan.client_mechanism(), plan.noise_multiplier
        if isinstance(mechanism, UserLevelDP):
            self._mus = [udp_mu(mechanism, n, num_parameters, algorithm, training) for n in sizes]
        else:
            self._mus = [math.inf if noise_multiplier is None else 1 / noise_multiplier] * len(
                sizes
            )
        self._squared: defaultdict[Hashable, float] = defaultdict(float)
        self.cohorts: list[list[int]] = []
        self.releases: Counter[int] = Counter()

    def add(self, cohort: Iterable[int]) -> None:
        """Note a round and the clients whose update may have left its device in it."""
        present = sorted(cohort)
        self.cohorts.append(present)
        self.releases.update(present)
        mus = {client: self._mus[client] for client in present}
        for unit, cost in squared_sensitivities(mus, self._units, self._plan.central).items():
            self._squared[unit] += cost

    @property
    def epsilon(self) -> float:
        """Spent so far by the unit that spent most, against the plan's vantage.

        Infinite without a guarantee, before the first round too.
        """
        if any(math.isinf(mu) for mu in self._mus):
            return math.inf
        if self._plan.config.unit == "utterance":
            return max((self._of_utterances(c) for c in self.releases), default=0.0)
        if self._plan.config.vantage == "outsider":
            rounds, rate = len(self.cohorts), self._plan.sampling_rate
            return self._plan.epsilon(Releases(rounds, rate, self._clients_a_unit))
        return self._known

    @property
    def known_epsilon(self) -> float | None:
        """The same against whoever knows who took part; None where `epsilon` assumes it."""
        return self._known if self._plan.config.vantage == "outsider" else None

    def overspends(self, cohort: Iterable[int]) -> bool:
        """Tell whether a round with this cohort would spend more than the plan allows."""
        limit = self._plan.config.stop_at_epsilon
        if limit is None:
            return False
        after = deepcopy(self)
        after.add(cohort)
        return after.epsilon > limit

    @property
    def _known(self) -> float:
        squared = max(self._squared.values(), default=0.0)
        return gaussian_epsilon(math.sqrt(squared), self._plan.config.delta)

    def _of_utterances(self, client: int) -> float:
        batch = self._batches[client]
        return self._plan.epsilon(Releases(batch.count * self.releases[client], batch.rate))


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
    rate : float
        Sampling rate of Poisson cohorts.
    """
    if privacy.mechanism == "dp_sgd":
        taken = Counter(client for cohort in cohorts for client in cohort)
        batches = {client: batch_releases(sizes[client], algorithm, training) for client in taken}
        exposures = {Releases(b.count * taken[c], b.rate) for c, b in batches.items()}
        return tuple(sorted(exposures, key=lambda r: (r.rate, r.count)))
    if privacy.vantage == "outsider":
        return (Releases(len(cohorts), rate, max(Counter(units).values())),)
    together = privacy.vantage == "sum"
    total: defaultdict[Hashable, float] = defaultdict(float)
    for cohort in cohorts:
        costs = squared_sensitivities(dict.fromkeys(cohort, 1.0), units, together)
        for unit, cost in costs.items():
            total[unit] += cost
    return (Releases(max(total.values(), default=1.0)),)


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
