"""Privacy truly spent, by exact composition of Gaussian releases."""

import math
from collections.abc import Mapping

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr

from client.privacy import UserLevelDP
from client.training import TrainingConfig


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon at which mu-Gaussian differential privacy meets `delta`, exactly.

    Parameters
    ----------
    mu : float
        Sensitivity over noise; for r releases ``sqrt(r) * sensitivity / stddev``.

    References
    ----------
    Balle and Wang (ICML 2018), theorem 8; Dong, Roth and Su (2019), corollary 2.13.
    """
    if mu == 0:
        return 0.0
    if math.isinf(mu):
        return math.inf

    def excess(epsilon: float) -> float:
        # log of Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu), stable for epsilon of thousands
        first = float(log_ndtr(mu / 2 - epsilon / mu))
        second = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
        if second >= first:
            return -math.inf
        return first + math.log1p(-math.exp(second - first)) - math.log(delta)

    if excess(0.0) <= 0:
        return 0.0
    high = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1
    return float(brentq(lambda e: max(excess(e), -1e3), 0.0, high, xtol=1e-9, rtol=1e-12))


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


def worst_epsilon(mus: Mapping[int, float], releases: Mapping[int, int], delta: float) -> float:
    """Epsilon of the client that spent most.

    Parameters
    ----------
    mus : mapping of client to float
        Sensitivity over noise of one release of that client.
    releases : mapping of client to int
        How often the client's update was seen.
    """
    spent = (mus[client] * math.sqrt(count) for client, count in releases.items())
    return gaussian_epsilon(max(spent, default=0.0), delta)


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
