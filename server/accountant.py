"""Privacy truly spent, by exact composition of Gaussian releases."""

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from client.privacy import Mechanism, UserLevelDP
from client.training import TrainingConfig
from server.gaussian import gaussian_epsilon


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


def worst_epsilon(
    mus: Sequence[float], units: Sequence[Hashable], releases: Mapping[int, int], delta: float
) -> float:
    """Epsilon of the unit that spent most.

    Parameters
    ----------
    mus : sequence of float, length N
        Sensitivity over noise of one release of each client.
    units : sequence of hashable, length N
        What is protected: the client itself, or the speaker who may hold several. A speaker's
        clients release independent noise, so all their releases compose.
    releases : mapping of client to int
        How often each client's update was seen.
    """
    if any(math.isinf(mu) for mu in mus):
        return math.inf  # without a guarantee, before the first release too
    squared = {client: count * mus[client] ** 2 for client, count in releases.items()}
    return gaussian_epsilon(math.sqrt(max(by_unit(units, squared), default=0.0)), delta)


def by_unit(units: Sequence[Hashable], amounts: Mapping[int, float]) -> list[float]:
    """Sum what clients spent over the units that they belong to, in no particular order."""
    total: defaultdict[Hashable, float] = defaultdict(float)
    for client, amount in amounts.items():
        total[units[client]] += amount
    return list(total.values())


def release_mu(
    mechanism: Mechanism,
    noise_multiplier: float | None,
    num_examples: int,
    num_parameters: int,
    algorithm: str,
    config: TrainingConfig,
) -> float:
    """Sensitivity over noise of one release of a client; infinite where nothing is guaranteed.

    Parameters
    ----------
    noise_multiplier : float or None
        Of the plan, for mechanisms whose sensitivity is the plan's own.
    """
    if isinstance(mechanism, UserLevelDP):
        return udp_mu(mechanism, num_examples, num_parameters, algorithm, config)
    return math.inf if noise_multiplier is None else 1 / noise_multiplier


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
