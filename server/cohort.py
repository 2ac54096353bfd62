"""Who takes part in a round."""

from collections import Counter

from client.seeds import numpy_stream


def fixed_size_cohort(
    num_clients: int, fraction: float, seed: int, federation: str, server_round: int
) -> list[int]:
    """Draw the round's clients without replacement, by partition id.

    Node ids differ from run to run; partition ids do not, so one seed always draws the same
    clients. The size is ``fraction * num_clients`` rounded, at least one. It is fixed, so a
    cohort must not be accounted for as a Poisson sample.

    Returns
    -------
    list of int
        Partition ids in ascending order.
    """
    size = min(num_clients, max(1, round(fraction * num_clients)))
    rng = numpy_stream(seed, federation, "cohort", server_round)
    return sorted(int(i) for i in rng.choice(num_clients, size, replace=False))


def scheduled_releases(
    num_clients: int, fraction: float, seed: int, federation: str, num_rounds: int
) -> Counter[int]:
    """Count how often each client will take part in the rounds 1 to `num_rounds`.

    Cohorts follow from the seed and not from data, so this is known before training.
    """
    rounds = range(1, num_rounds + 1)
    return Counter(
        client
        for server_round in rounds
        for client in fixed_size_cohort(num_clients, fraction, seed, federation, server_round)
    )
