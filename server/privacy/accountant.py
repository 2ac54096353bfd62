"""The ledger of releases in a federation, and the epsilon that they really spend."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import islice

from fedser.conf.privacy_keys import PrivacyConfig
from fedser.conf.training_keys import TrainingConfig
from fedser.server.privacy.composition import Releases, running_epsilon
from fedser.server.privacy.matrix_factorization import num_bands, turn_rate
from fedser.server.privacy.mechanisms import ENTRIES
from fedser.server.privacy.plan import PrivacyPlan

Exposures = Mapping[str, Releases]
"""Releases of each unit by its name. A unit has the same name in all federations of a run."""


class Ledger:
    """The releases of each unit in one federation, planned or made, round by round.

    Parameters
    ----------
    rate : float
        Probability that a client takes part in a round of its turn, for Poisson cohorts.
    units : sequence of str, length N
        Unit that each client belongs to; several clients may belong to one speaker.
    batches : sequence of Releases, length N
        Releases of each utterance in one update of each client.
    mus : sequence of float, length N
        Sensitivity over noise of one release of each client.
    bands : int
        Rounds after which it is a client's turn again; 1 if every round may draw it.

    Attributes
    ----------
    releases : Counter
        How often each client's update may have left its device.
    """

    def __init__(
        self,
        privacy: PrivacyConfig,
        rate: float,
        units: Sequence[str],
        batches: Sequence[Releases],
        mus: Sequence[float],
        bands: int = 1,
    ) -> None:
        self._privacy, self._rate, self._units = privacy, rate, units
        self._batches, self._mus, self._bands = batches, mus, bands
        self._squared: defaultdict[str, float] = defaultdict(float)
        self._rounds = 0
        self.releases: Counter[int] = Counter()

    def add(self, cohort: Iterable[int]) -> None:
        """Add a round with its clients."""
        present = {client: self._mus[client] for client in cohort}
        summed = self._privacy.summed
        for unit, cost in squared_sensitivities(present, self._units, summed).items():
            self._squared[unit] += cost
        self.releases.update(present.keys())
        self._rounds += 1

    def copy(self) -> "Ledger":
        """Return an independent copy."""
        other = copy(self)
        other._squared, other.releases = self._squared.copy(), self.releases.copy()
        return other

    @property
    def exposures(self) -> Exposures:
        """Releases of each unit against the plan's vantage.

        A unit without releases has no entry. If cohorts are secret every unit has an entry, because
        every round of its turn may have held it.
        """
        if self._privacy.unit == "utterance":
            return {
                self._units[client]: replace(self._batches[client], count=batch_count * updates)
                for client, updates in self.releases.items()
                for batch_count in [self._batches[client].count]
            }
        if self._privacy.vantage == "outsider" and self._rounds:
            turns = -(-self._rounds // self._bands)
            return {
                unit: Releases(turns, self._rate, clients)
                for unit, clients in Counter(self._units).items()
            }
        return self.known

    @property
    def known(self) -> Exposures:
        """Releases of each unit against an observer who knows who took part."""
        return {unit: Releases(squared) for unit, squared in self._squared.items()}


def composed(parts: Iterable[Exposures]) -> dict[str, Releases]:
    """Return the releases of each unit, added up over several federations.

    A unit has the same sampling rate and number of clients in all federations, because shards and
    training parts are cut speaker by speaker.

    Raises
    ------
    ValueError
        If a unit's rate or number of clients differs between federations.
    """
    total: dict[str, Releases] = {}
    for part in parts:
        for unit, releases in part.items():
            before = total.get(unit)
            if before is None:
                total[unit] = releases
                continue
            if (before.rate, before.clients) != (releases.rate, releases.clients):
                raise ValueError(f"{unit}: {before} and {releases} do not add up to one count")
            total[unit] = replace(releases, count=before.count + releases.count)
    return total


def largest(exposures: Iterable[Releases]) -> tuple[Releases, ...]:
    """Return the releases of the units that may spend most.

    Of two units with the same rate, the unit with more clients and more releases spends more.
    """
    found: list[Releases] = []
    for one in sorted(set(exposures), key=lambda r: (r.rate, r.clients, r.count), reverse=True):
        if not any(o.rate == one.rate and o.count >= one.count for o in found):
            found.append(one)  # earlier ones have at least as many clients
    return tuple(reversed(found))


def spent(plan: PrivacyPlan, exposures: Iterable[Releases]) -> float | None:
    """Return the epsilon of the unit that spends most; None without a finite guarantee.

    It is 0 if there are no releases.
    """
    noise_multiplier = accounted_noise(plan)
    if noise_multiplier is None:
        return None
    c = plan.config
    epsilon = max(
        (
            running_epsilon(releases, noise_multiplier, c.delta, c.accountant or "")
            for releases in largest(exposures)
        ),
        default=0.0,
    )
    return None if math.isinf(epsilon) else epsilon


def accounted_noise(plan: PrivacyPlan) -> float | None:
    """Return the noise multiplier for the sensitivities of a ledger; None without a guarantee.

    If the noise depends on the client, the ledger holds sensitivities over that noise.
    """
    own_noise = ENTRIES[plan.config.mechanism].release_mu is not None
    return 1.0 if own_noise else plan.noise_multiplier


@dataclass(frozen=True)
class Schedule:
    """The planned releases of the same units in another federation of the run.

    Attributes
    ----------
    sizes, units
        As in `Accountant`.
    cohorts : list of list of int
        Planned cohorts, one list per round. If cohorts are secret, only their number counts.
    repeated : list of list of int
        Cohorts of rounds that were repeated after an interruption.
    """

    sizes: Sequence[int]
    units: Sequence[str]
    cohorts: Sequence[Sequence[int]]
    repeated: Sequence[Sequence[int]] = ()


class Accountant:
    """Keep the ledger of a federation and compute the epsilon spent.

    Parameters
    ----------
    sizes : sequence of int, length N
        Training utterances of each client.
    units : sequence of str, length N
        As in `Ledger`.
    num_parameters : int
        Shared weights d.
    algorithm : str
        ``fedavg`` or ``fedsgd``.
    others : sequence of Schedule
        The other federations that count together with this one.

    Attributes
    ----------
    cohorts : list of list of int
        One list per round: the clients with an update that may have left the device.
    """

    def __init__(
        self,
        plan: PrivacyPlan,
        sizes: Sequence[int],
        units: Sequence[str],
        num_parameters: int,
        algorithm: str,
        training: TrainingConfig,
        others: Sequence[Schedule] = (),
    ) -> None:
        self._plan = plan
        # By the name in the configuration, not by class: a user's class that inherits from a
        # mechanism is not accounted for as that mechanism.
        release_mu = ENTRIES[plan.config.mechanism].release_mu

        def ledger(sizes: Sequence[int], units: Sequence[str]) -> Ledger:
            mus = [1.0] * len(sizes)
            if release_mu is not None:
                mus = [release_mu(plan, n, num_parameters, algorithm, training) for n in sizes]
            batches = _batches(sizes, algorithm, training)
            return Ledger(plan.config, plan.turn_rate, units, batches, mus, plan.bands)

        self._ledger = ledger(sizes, units)
        self._others = [(iter(o.cohorts), ledger(o.sizes, o.units)) for o in others]
        for other, (_, own) in zip(others, self._others, strict=True):
            for cohort in other.repeated:
                own.add(cohort)
        self._seen, self._units = 0, units
        self.cohorts: list[list[int]] = []

    def add(self, cohort: Iterable[int]) -> None:
        """Add a round and the clients with an update that may have left the device."""
        self.cohorts.append(sorted(cohort))
        self._ledger.add(self.cohorts[-1])

    def too_early(self, cohort: Iterable[int]) -> list[str]:
        """Return the units of a cohort that took part in one of the last b - 1 rounds.

        Noise that is correlated over b rounds does not cover a second turn within them.
        """
        recent = self.cohorts[max(0, len(self.cohorts) - self._plan.bands + 1) :]
        before = {self._units[client] for cohort in recent for client in cohort}
        return sorted(before & {self._units[client] for client in cohort})

    @property
    def releases(self) -> Counter[int]:
        """Number of releases of each client."""
        return self._ledger.releases

    @property
    def exposures(self) -> Exposures:
        """Releases of each unit in this federation, against the plan's vantage."""
        return self._ledger.exposures

    @property
    def known(self) -> Exposures | None:
        """Exposures if the observer knows who took part; None if `exposures` already assumes it."""
        return self._ledger.known if self._plan.config.vantage == "outsider" else None

    @property
    def epsilon(self) -> float | None:
        """Epsilon of the unit that spent most in this federation; None without a guarantee."""
        return spent(self._plan, self.exposures.values())

    @property
    def known_epsilon(self) -> float | None:
        """Epsilon if the observer knows who took part; None if `epsilon` already assumes it."""
        return None if self.known is None else spent(self._plan, self.known.values())

    def overspends(self, server_round: int, cohort: Iterable[int]) -> bool:
        """Return whether a round with this cohort would spend more than the plan allows.

        The other federations count with their planned rounds up to this one. None of them releases
        more, so that all of them together stay below the limit.
        """
        limit = self._plan.config.stop_at_epsilon
        if limit is None:
            return False
        after = self._ledger.copy()
        after.add(cohort)
        for ahead, other in self._others:
            for planned in islice(ahead, max(0, server_round - self._seen)):
                other.add(planned)
        self._seen = max(self._seen, server_round)
        together = composed([after.exposures, *(other.exposures for _, other in self._others)])
        epsilon = spent(self._plan, (together[unit] for unit in after.exposures))
        return epsilon is None or epsilon > limit


def planned_exposures(
    privacy: PrivacyConfig,
    cohorts: Sequence[Sequence[int]],
    rate: float,
    sizes: Sequence[int],
    units: Sequence[str],
    algorithm: str,
    training: TrainingConfig,
) -> Exposures:
    """Return the releases of each unit for planned cohorts of a federation.

    Parameters
    ----------
    cohorts : sequence of sequence of int
        Clients of each round. If cohorts are secret, only the number of rounds counts.
    rate : float
        Share of the clients in a round.
    units
        As in `Ledger`.
    """
    batches = _batches(sizes, algorithm, training)
    bands = num_bands(privacy, rate, len(cohorts))
    mus = [1.0] * len(sizes)
    ledger = Ledger(privacy, turn_rate(bands, rate), units, batches, mus, bands)
    for cohort in cohorts:
        ledger.add(cohort)
    return ledger.exposures


def squared_sensitivities(
    mus: dict[int, float], units: Sequence[str], summed: bool
) -> dict[str, float]:
    """Return the squared sensitivity over noise of each unit in one round.

    Parameters
    ----------
    mus : dict of client to float
        Sensitivity over noise of the round's clients.
    summed : bool
        Whether updates are summed before one noise is added. Then the sensitivities of a unit's
        clients add up; otherwise their squares do.
    """
    by_unit: dict[str, float] = {}
    for client, mu in mus.items():
        unit = units[client]
        by_unit[unit] = by_unit.get(unit, 0.0) + (mu if summed else mu * mu)
    return {unit: total**2 for unit, total in by_unit.items()} if summed else by_unit


def _batches(sizes: Sequence[int], algorithm: str, training: TrainingConfig) -> list[Releases]:
    """Return `batch_releases` of each client; many clients have the same size."""
    found = {n: batch_releases(n, algorithm, training) for n in set(sizes)}
    return [found[n] for n in sizes]


def batch_releases(num_examples: int, algorithm: str, training: TrainingConfig) -> Releases:
    """Return the releases of each utterance in one DP-SGD update of a client."""
    steps = 1 if algorithm == "fedsgd" else training.steps(num_examples)
    return Releases(steps, training.sampling_rate(num_examples))
