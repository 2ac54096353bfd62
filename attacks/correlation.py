"""Second-order attack: correlations between columns of the first layer's update.

Hidden units of independently initialised models are exchangeable, so only statistics that do
not depend on their order carry over from a shadow model to the victims'. Correlations over
hidden units between the gradients of two input features are such statistics, and they echo
how these features covary in the client's speech. Independent noise on every weight leaves
them unbiased: it averages out over hidden units and over updates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from attacks.linear import LinearAttack
from attacks.tap import first_weight

Floats = npt.NDArray[np.float32]

TINY = np.float32(1e-12)


@dataclass
class Correlation(LinearAttack):
    """Logistic regression on correlations of columns j and j + o.

    Attributes
    ----------
    offsets : list of int
        Distances o between input features. In emobase 1 to 6 pair functionals of one
        contour, multiples of 19 the same functional of neighbouring contours, and 494 a
        contour with its delta.
    """

    name: ClassVar[str] = "correlation"
    offsets: list[int]

    def features(self, gradients: Mapping[str, Floats]) -> Floats:
        """Return (k, p) correlations; a column without spread correlates with nothing."""
        weight, _ = first_weight(gradients)
        columns = weight - weight.mean(axis=1, keepdims=True)
        columns /= np.sqrt(np.einsum("khd,khd->kd", columns, columns))[:, None] + TINY
        usable = [o for o in self.offsets if o < columns.shape[2]]
        pairs = [np.einsum("khd,khd->kd", columns[:, :, :-o], columns[:, :, o:]) for o in usable]
        return np.concatenate(pairs, axis=1)
