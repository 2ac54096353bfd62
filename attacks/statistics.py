"""First-order attack: how strongly each input feature moves the first layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from attacks.linear import LinearAttack
from attacks.tap import first_weight

Floats = npt.NDArray[np.float32]


@dataclass
class Statistics(LinearAttack):
    """Logistic regression on three statistics of each column of the first layer's update.

    They are means over hidden units, which do not depend on the units' order: of the
    magnitude, of the square, and of the gradient times the sign of its unit's bias gradient.
    """

    name: ClassVar[str] = "statistics"

    def features(self, gradients: Mapping[str, Floats]) -> Floats:
        """Return (k, 3 d) statistics."""
        weight, bias = first_weight(gradients)
        signed = np.einsum("khd,kh->kd", weight, np.sign(bias)) / weight.shape[1]
        square = np.einsum("khd,khd->kd", weight, weight) / weight.shape[1]
        return np.concatenate([np.abs(weight).mean(axis=1), square, signed], axis=1)
