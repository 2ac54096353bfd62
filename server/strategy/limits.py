"""Limits of an update's norm: no larger than local training and the mechanism can make it.

Adam bounds how far a weight moves, for any gradients. So the update of a client has a largest
norm, which follows from the learning rate and the number of steps. A gradient (FedSGD) has no
largest norm: it is compared with the gradients of the cohort.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri

from fedser.client.privacy.base import FALSE_ALARM, Mechanism
from fedser.client.privacy.central import CentralDP
from fedser.client.privacy.distributed import DistributedDP
from fedser.client.privacy.mechanisms import BUILT_IN
from fedser.common.arrays import Arrays, Floats64, l2_norm
from fedser.conf.training_keys import TrainingConfig

SLACK = 1e-3
"""Largest relative error that rounding adds to a bound on real numbers."""

ROUNDING = 2.0**-23
"""Relative error of a float32 weight after one step."""

SCALED_DOWN = 10.0
"""An update up to this many times the mechanism's norm bound is scaled down, not rejected."""

OUTLIER = 1e3
"""An update is accepted up to this many times the cohort's median norm, or the model's norm."""

MIN_FOR_MEDIAN = 3
"""Fewest updates for which the median norm is used."""

ABSURD = 1e6
"""No update above this many times the model's norm (or 1, if the norm is smaller) is accepted."""


def adam_reach(training: TrainingConfig, steps: int) -> float:
    r"""Return how far Adam moves a weight in `steps` steps at most, in learning rates.

    With :math:`m_t = (1-\beta_1) \sum_i \beta_1^{t-i} g_i` and
    :math:`v_t = (1-\beta_2) \sum_i \beta_2^{t-i} g_i^2` the inequality of Cauchy and Schwarz gives
    :math:`|m_t| \le \frac{1-\beta_1}{\sqrt{1-\beta_2}} \sqrt{\sum_{j<t} (\beta_1^2/\beta_2)^j}
    \sqrt{v_t}`; both are then divided by their bias corrections (Kingma and Ba, 2015, algorithm 1
    and section 2.1). The bound holds for any gradients; weight decay is part of the gradient.

    Returns
    -------
    float
        Infinity if `beta1` or `beta2` is not a decay rate.
    """
    beta1, beta2 = training.beta1, training.beta2
    if not (0 <= beta1 < 1 and 0 < beta2 < 1):
        return math.inf
    moved = powers = 0.0
    for step in range(1, steps + 1):
        powers = powers * beta1**2 / beta2 + 1
        corrected = math.sqrt(1 - beta2**step) / (1 - beta1**step)
        moved += (1 - beta1) / math.sqrt(1 - beta2) * math.sqrt(powers) * corrected
    return moved


@dataclass(frozen=True)
class UpdateLimit:
    """Limits of the norms of a federation's updates.

    Attributes
    ----------
    algorithm : str
        ``fedavg`` or ``fedsgd``.
    client_sizes : sequence of int
        Training utterances of each client of the federation.
    """

    algorithm: str
    training: TrainingConfig
    mechanism: Mechanism
    client_sizes: Sequence[int]

    def largest(self, clients: Sequence[int], model: Arrays) -> Floats64:
        """Return the norm that no honest update of each client exceeds, shape (k,)."""
        bound = self.mechanism.norm_bound(model)
        if math.isfinite(bound):
            return np.full(len(clients), SCALED_DOWN * bound)
        if self.algorithm != "fedavg" or type(self.mechanism) not in BUILT_IN.values():
            return np.full(len(clients), math.inf)  # a user's own mechanism may send anything
        size, norm = sum(array.size for array in model.values()), l2_norm(model)
        num_examples = [self.client_sizes[client] for client in clients]
        limits = {n: self._largest_trained(n, size, norm) for n in set(num_examples)}
        return np.array([limits[n] for n in num_examples])

    def _largest_trained(self, num_examples: int, size: int, norm: float) -> float:
        """Return the largest norm after training on `num_examples`, with the mechanism's noise."""
        steps = self.training.steps(num_examples)
        reach = self.training.learning_rate * adam_reach(self.training, steps)
        trained = (1 + SLACK) * math.sqrt(size) * reach
        stddev = self.mechanism.stddev(num_examples)
        noise = 0.0 if math.isnan(stddev) else stddev * math.sqrt(chdtri(size, FALSE_ALARM))
        return trained + steps * ROUNDING * (norm + trained) + noise

    def too_large(
        self, clients: Sequence[int], norms: Floats64, model: Arrays
    ) -> dict[int, tuple[float, str]]:
        """Return which of a round's k updates are too large, by row.

        Parameters
        ----------
        norms : ndarray of float64, shape (k,)

        Returns
        -------
        dict of int to (float, str)
            The limit that is exceeded, and what sets it.
        """
        norm = l2_norm(model)
        trained = self.largest(clients, model)
        # The guarantee of a noised sum assumes that each client acts on it by its own clipped
        # update only. So the norms of other clients must not decide whether an update is rejected.
        summed = isinstance(self.mechanism, (CentralDP, DistributedDP))
        compared = len(norms) >= MIN_FOR_MEDIAN and not summed
        outlier = OUTLIER * max(float(np.median(norms)), norm) if compared else math.inf
        absurd = ABSURD * max(1.0, norm)
        found = {}
        for row, update_norm in enumerate(norms.tolist()):
            limits = {
                "its training and mechanism allow": float(trained[row]),
                "the cohort's median and the model allow": outlier,
                "the model's norm allows": absurd,
            }
            why = min(limits, key=lambda name: limits[name])
            if update_norm > limits[why]:
                found[row] = limits[why], why
        return found
