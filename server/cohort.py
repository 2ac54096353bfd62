"""Who takes part in a round."""

from dataclasses import dataclass

from client.seeds import noise_source, numpy_stream
from server.privacy_config import CENTRAL, PrivacyConfig


@dataclass(frozen=True)
class Sampler:
    """Draws cohorts by partition id.

    Node ids differ from run to run; partition ids do not, so one seed always draws the same
    clients, unless the draw is to stay secret.

    Attributes
    ----------
    num_clients : int
    rate : float
        Share of the clients in a cohort of fixed size, or probability of each client.
    federation : str
        Names the random stream, together with `seed` and the round.
    poisson : bool
        Draw each client independently: cohorts differ in size and may be empty. A cohort of
        fixed size (rounded, at least one client) must not be accounted for as such a sample.
    secret : bool
        Draw from the operating system's entropy.
    """

    num_clients: int
    rate: float
    seed: int
    federation: str
    poisson: bool = False
    secret: bool = False

    def __call__(self, server_round: int) -> list[int]:
        """Return the round's partition ids in ascending order."""
        stream = (self.seed, self.federation, "cohort", server_round)
        if self.poisson:
            drawn = noise_source(self.secret, *stream).random(self.num_clients) < self.rate
            return [int(client) for client in drawn.nonzero()[0]]
        size = min(self.num_clients, max(1, round(self.rate * self.num_clients)))
        rng = numpy_stream(*stream)
        return sorted(int(i) for i in rng.choice(self.num_clients, size, replace=False))


def cohort_sampler(
    privacy: PrivacyConfig, num_clients: int, rate: float, seed: int, federation: str
) -> Sampler:
    """Return how cohorts are drawn under a mechanism: Poisson if its noise is central."""
    return Sampler(
        num_clients=num_clients,
        rate=rate,
        seed=seed,
        federation=federation,
        poisson=privacy.mechanism in CENTRAL,
        secret=privacy.secure_noise and privacy.vantage == "outsider",
    )
