"""Who takes part in a round."""

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
