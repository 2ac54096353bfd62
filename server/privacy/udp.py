"""The privacy that user-level differential privacy (UDP) as published in 2022 really gives."""

import math

import numpy as np

from fedser.client.privacy.user_level import UserLevelDP
from fedser.conf.training_keys import TrainingConfig


def udp_mu(
    mechanism: UserLevelDP,
    num_examples: int,
    dimension: int,
    algorithm: str,
    config: TrainingConfig,
) -> float:
    """Return sensitivity over noise of one UDP release, if all data of the client is replaced.

    The sensitivity is that of the code as published, not the claimed 2 C / n: an Adam update is
    bounded by `adam_sensitivity`, a clipped gradient (FedSGD) by 2 C.

    Parameters
    ----------
    num_examples : int
        Training utterances of the client.
    dimension : int
        Number of shared weights d.
    algorithm : str
        ``fedavg`` or ``fedsgd``.
    """
    if algorithm == "fedsgd":
        sensitivity = 2 * mechanism.gradient_clip
    else:
        sensitivity = adam_sensitivity(dimension, config.steps(num_examples), config)
    return sensitivity / mechanism.stddev(num_examples)


def adam_sensitivity(dimension: int, steps: int, config: TrainingConfig) -> float:
    """Bound how far replacing all of a client's data moves an Adam update, in L2 norm.

    Adam's step in a coordinate is ``lr |sum a_i g_i| / sqrt(sum b_i g_i^2)``. By Cauchy and Schwarz
    it is at most ``lr sqrt(sum a_i^2 / b_i)``, whatever the gradients are; in the first step it is
    exactly lr. Clipping gradients does not lower it. Two updates differ by at most twice the norm
    of one.

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
