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

    Each statistic is a mean over hidden units, so the order of the units does not matter. They
    are the means of the magnitude, of the square, and of the gradient times the sign of its unit's
    last variable. In the first layer the last variable is the bias gradient.

    Attributes
    ----------
    inverse_regularisation : float
        As in `LinearClassifier`.
    max_examples : int or None
        Maximum number of shadow updates to fit to; None: all.
    """

    name: ClassVar[str] = "statistics"
    inverse_regularisation: float
    max_examples: int | None

    def fit(self, examples: Stream) -> None:
        """Fit the logistic regression to updates of shadow clients."""
        self._classifier = LinearClassifier(self.inverse_regularisation)
        self._classifier.fit(*gather(self.statistics, examples))

    def features(self, gradients: Mapping[str, Floats]) -> Floats:
        """Return the decisions (k, C), or (k, 1) for two classes."""
        return self._classifier.decide(self.statistics(gradients))

    def score(self, features: Floats) -> Floats:
        """Return log-probabilities of shape (n, C)."""
        return class_scores(features)

    def statistics(self, gradients: Mapping[str, Floats]) -> Floats:
        """Return (k, p) statistics; p is three times the number of variables of all layers."""
        columns = []
        for sample in samples(gradients):
            units = sample.shape[1]
            signed = np.einsum("khd,kh->kd", sample, np.sign(sample[:, :, -1])) / units
            square = np.einsum("khd,khd->kd", sample, sample) / units
            columns += [np.abs(sample).mean(axis=1), square, signed]
        return np.concatenate(columns, axis=1)
