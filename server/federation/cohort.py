"""Draw the clients that take part in a round."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from fedser.common.seeds import noise_source, numpy_stream, uniforms
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.server.privacy.matrix_factorization import turn_rate
from fedser.server.privacy.plan import cohort_size


@dataclass(frozen=True)
class Sampler:
    """Draws cohorts by partition id.

    Flower's node ids differ from run to run, and partition ids do not. So one seed always draws
    the same clients, unless the draw must stay secret.

    Attributes
    ----------
    num_clients : int
    rate : float
        Share of the clients in a cohort of fixed size; probability of each client if `poisson`.
    seed : int or None
        None draws from the operating system's entropy.
    federation : str
        Names the random stream, together with `seed` and the round.
    poisson : bool
        Draw each client independently: cohorts differ in size and may be empty. Otherwise a
        cohort has a fixed size (rounded, at least one client), and must not be accounted for as a
        Poisson sample.
    hidden : bool
        Epsilon assumes that nobody knows the cohort. Each attempt of a round then draws its own
        cohort: the same cohort twice would not be two independent samples.
    bands : int
        Number of groups that take turns. Clients of one unit are in the same group, and groups are
        of the same size, to within one unit.
    units : tuple of str, length N
        Unit of each client; needed for several groups only.
    group_seed : int
        Seed of the groups, which everybody may know.
    """

    num_clients: int
    rate: float
    seed: int | None
    federation: str
    poisson: bool = False
    hidden: bool = False
    bands: int = 1
    units: tuple[str, ...] = field(default=(), repr=False)
    group_seed: int = 0

    def __call__(self, server_round: int, attempt: int = 0, turn: int | None = None) -> list[int]:
        """Return the partition ids of the round's clients in ascending order.

        Parameters
        ----------
        attempt : int
            How often this round was begun before this time.
        turn : int, optional
            Number of this attempt among the attempts of all rounds, from 1; by default that of
            the round, if no round was begun twice. It decides which group may take part.
        """
        stream: tuple[str | int, ...] = (self.federation, "cohort", server_round)
        if self.hidden:
            stream = (*stream, attempt)
        if self.poisson:
            rate = turn_rate(self.bands, self.rate)
            drawn = uniforms(noise_source(self.seed, *stream), self.num_clients) < rate
            group = ((turn or server_round) - 1) % self.bands
            return [int(client) for client in drawn.nonzero()[0] if self.groups[client] == group]
        assert self.seed is not None  # a cohort of fixed size is never secret
        size = cohort_size(self.num_clients, self.rate)
        rng = numpy_stream(self.seed, *stream)
        return sorted(int(i) for i in rng.choice(self.num_clients, size, replace=False))

    @cached_property
    def groups(self) -> list[int]:
        """The group of each client, from 0. It depends on no data, and everybody may know it."""
        if self.bands == 1:
            return [0] * self.num_clients
        names = sorted(set(self.units))
        rng = numpy_stream(self.group_seed, self.federation, "groups")
        group = dict(zip(names, (rng.permutation(len(names)) % self.bands).tolist(), strict=True))
        return [group[unit] for unit in self.units]


def cohort_sampler(
    privacy: PrivacyConfig,
    units: Sequence[str],
    rate: float,
    bands: int,
    seed: int,
    federation: str,
) -> Sampler:
    """Return the sampler for a mechanism: Poisson sampling if its noise is central.

    Parameters
    ----------
    units : sequence of str, length N
        Unit of the guarantee that each client belongs to.
    bands : int
        As `server.privacy.matrix_factorization.num_bands`.
    """
    hidden = privacy.secret_cohorts
    return Sampler(
        num_clients=len(units),
        rate=rate,
        seed=None if hidden and privacy.secret_noise else seed,
        federation=federation,
        poisson=privacy.central,
        hidden=hidden,
        bands=bands,
        units=tuple(units) if bands > 1 else (),
        group_seed=seed if bands > 1 else 0,
    )
