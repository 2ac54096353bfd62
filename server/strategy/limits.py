"""How large an update may be: no larger than local training and a mechanism can make it.

Adam bounds how far a weight moves, whatever the gradients are, so that the update of a client has
a largest norm that follows from the learning rate and the number of steps. A gradient (FedSGD) has
none: it is compared with those of the cohort.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri

from fedser.client.privacy.base import FALSE_ALARM, Mechanism
from fedser.client.privacy.central import CentralDP
from fedser.client.privacy.mechanisms import BUILT_IN
from fedser.common.arrays import Arrays, l2_norm
from fedser.conf.training_keys import TrainingConfig

Floats64 = npt.NDArray[np.float64]

SLACK = 1e-3
"""Largest relative error that rounding adds to a bound on real numbers."""

ROUNDING = 2.0**-23
"""Relative error of a weight in float32, of one step."""

SCALED_DOWN = 10.0
"""Times the norm bound of a mechanism up to which an update is scaled down, and not refused."""

OUTLIER = 1e3
"""Times the cohort's median norm, and the model's own norm, up to which an update is accepted."""

FEWEST = 3
"""Updates of which a median says anything."""

ABSURD = 1e6
"""Times the model's own norm (or 1, if that is smaller) up to which any update is accepted."""


def adam_reach(training: TrainingConfig, steps: int) -> float:
    r"""Return how far Adam moves a weight in so many steps, at most, in learning rates.

    With :math:`m_t = (1-\beta_1) \sum_i \beta_1^{t-i} g_i` and
    :math:`v_t = (1-\beta_2) \sum_i \beta_2^{t-i} g_i^2` the inequality of Cauchy and Schwarz gives
    :math:`|m_t| \le \frac{1-\beta_1}{\sqrt{1-\beta_2}} \sqrt{\sum_{j<t} (\beta_1^2/\beta_2)^j}
    \sqrt{v_t}`; both are then divided by their bias corrections (Kingma and Ba, 2015, algorithm 1
    and section 2.1). It holds for any gradients, with weight decay as part of them.

    Returns
    -------
    float
        Infinity where the settings are no decay rates.
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
    """The largest norms of the updates of a federation.

    Attributes
    ----------
    algorithm : str
        ``fedavg`` or ``fedsgd``.
    held : sequence of int
        Utterances of each client of the federation.
    """

    algorithm: str
    training: TrainingConfig
    mechanism: Mechanism
    held: Sequence[int]

    def largest(self, clients: Sequence[int], model: Arrays) -> Floats64:
        """Return the norm that no honest update of each client exceeds, shape (k,)."""
        bound = self.mechanism.norm_bound(model)
        if math.isfinite(bound):
            return np.full(len(clients), SCALED_DOWN * bound)
        if self.algorithm != "fedavg" or type(self.mechanism) not in BUILT_IN.values():
            return np.full(len(clients), math.inf)  # a user's own mechanism may send anything
        size, norm = sum(array.size for array in model.values()), l2_norm(model)
        by_size = {n: self._of_size(n, size, norm) for n in {self.held[c] for c in clients}}
        return np.array([by_size[self.held[client]] for client in clients])

    def _of_size(self, num_examples: int, size: int, norm: float) -> float:
        steps = self.training.steps(num_examples)
        reach = self.training.learning_rate * adam_reach(self.training, steps)
        trained = (1 + SLACK) * math.sqrt(size) * reach
        stddev = self.mechanism.stddev(num_examples)
        noise = 0.0 if math.isnan(stddev) else stddev * math.sqrt(chdtri(size, FALSE_ALARM))
        return trained + steps * ROUNDING * (norm + trained) + noise

    def refused(
        self, clients: Sequence[int], norms: Floats64, model: Arrays
    ) -> dict[int, tuple[float, str]]:
        """Return which of a round's k updates are too large: their limit, and where it is from.

        Parameters
        ----------
        norms : ndarray of float64, shape (k,)
        """
        norm = l2_norm(model)
        of_training = self.largest(clients, model)
        # A sum with a guarantee depends on each client by its own clipped update alone: whether one
        # is refused must not follow from the others' norms.
        compared = len(norms) >= FEWEST and not isinstance(self.mechanism, CentralDP)
        outlier = OUTLIER * max(float(np.median(norms)), norm) if compared else math.inf
        absurd = ABSURD * max(1.0, norm)
        found = {}
        for row, own in enumerate(norms.tolist()):
            limits = {
                "its training and mechanism allow": float(of_training[row]),
                "the cohort's median and the model allow": outlier,
                "the model's norm allows": absurd,
            }
            why = min(limits, key=lambda name: limits[name])
            if own > limits[why]:
                found[row] = limits[why], why
        return found
