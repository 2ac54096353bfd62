"""First-order attack: how strongly each input feature moves the first layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedser.attacks.algorithms.base import Stream, gather
from fedser.attacks.algorithms.layer_samples import samples
from fedser.attacks.algorithms.linear import LinearClassifier, class_scores
from fedser.common.arrays import Floats


@dataclass
class Statistics:
    """Logistic regression on three statistics of each variable of a layer's update.

    They are means over hidden units, which do not depend on the units' order: of the
    magnitude, of the square, and of the gradient times the sign of its unit's last variable,
    which in the first layer is the bias gradient.

    Attributes
    ----------
    inverse_regularisation : float
        As of `LinearClassifier`.
    max_examples : int or None
        How many shadow updates to learn from at most.
    """

    name: ClassVar[str] = "statistics"
    inverse_regularisation: float
    max_examples: int | None

    def fit(self, examples: Stream) -> None:
        """Learn from shadow clients."""
        self._classifier = LinearClassifier(self.inverse_regularisation)
        self._classifier.fit(*gather(self.statistics, examples))

    def features(self, gradients: Mapping[str, Floats]) -> Floats:
        """Return the decisions (k, C), or (k, 1) for two classes."""
        return self._classifier.decide(self.statistics(gradients))

    def score(self, features: Floats) -> Floats:
        """Return log-probabilities of shape (n, C)."""
        return class_scores(features)

    def statistics(self, gradients: Mapping[str, Floats]) -> Floats:
        """Return (k, p) statistics, p three times the number of variables of all layers."""
        columns = []
        for sample in samples(gradients):
            units = sample.shape[1]
            signed = np.einsum("khd,kh->kd", sample, np.sign(sample[:, :, -1])) / units
            square = np.einsum("khd,khd->kd", sample, sample) / units
            columns += [np.abs(sample).mean(axis=1), square, signed]
        return np.concatenate(columns, axis=1)
