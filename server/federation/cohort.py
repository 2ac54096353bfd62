"""Draw the clients that take part in a round."""

from dataclasses import dataclass

from fedser.common.seeds import noise_source, numpy_stream, uniforms
from fedser.conf.privacy_keys import PrivacyConfig


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
    """

    num_clients: int
    rate: float
    seed: int | None
    federation: str
    poisson: bool = False
    hidden: bool = False

    def __call__(self, server_round: int, attempt: int = 0) -> list[int]:
        """Return the partition ids of the round's clients in ascending order.

        Parameters
        ----------
        attempt : int
            How often this round was begun before this time.
        """
        stream: tuple[str | int, ...] = (self.federation, "cohort", server_round)
        if self.hidden:
            stream = (*stream, attempt)
        if self.poisson:
            drawn = uniforms(noise_source(self.seed, *stream), self.num_clients) < self.rate
            return [int(client) for client in drawn.nonzero()[0]]
        assert self.seed is not None  # a cohort of fixed size is never secret
        size = min(self.num_clients, max(1, round(self.rate * self.num_clients)))
        rng = numpy_stream(self.seed, *stream)
        return sorted(int(i) for i in rng.choice(self.num_clients, size, replace=False))


def cohort_sampler(
    privacy: PrivacyConfig, num_clients: int, rate: float, seed: int, federation: str
) -> Sampler:
    """Return the sampler for a mechanism: Poisson sampling if its noise is central."""
    hidden = privacy.secret_cohorts
    return Sampler(
        num_clients=num_clients,
        rate=rate,
        seed=None if hidden and privacy.secret_noise else seed,
        federation=federation,
        poisson=privacy.central,
        hidden=hidden,
    )
