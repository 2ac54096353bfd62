"""The linear classifier behind the attacks on order-invariant numbers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from attacks.tap import Stream, gather

Floats = npt.NDArray[np.float32]


@dataclass
class LinearAttack(ABC):
    """L2-regularised logistic regression on numbers z-scored with shadow statistics.

    A subclass says which numbers. Scores are linear in them for two classes, so that the score
    of the mean of several updates' numbers is then the mean of their scores.

    Attributes
    ----------
    inverse_regularisation : float
        ``C`` of `sklearn.linear_model.LogisticRegression`.
    max_examples : int or None
        How many shadow updates to learn from at most.
    """

    name: ClassVar[str]
    inverse_regularisation: float
    max_examples: int | None

    @abstractmethod
    def features(self, gradients: Mapping[str, Floats]) -> Floats:
        """Return (k, p) numbers."""

    def fit(self, examples: Stream) -> None:
        """Learn from shadow clients."""
        features, labels = gather(self, examples)
        self._mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
        features -= self._mean
        spread = np.sqrt(np.einsum("ij,ij->j", features, features) / len(features))
        self._std = np.where(spread > 0, spread, 1).astype(np.float32)
        features /= self._std
        self._model = LogisticRegression(
            C=self.inverse_regularisation, class_weight="balanced", max_iter=500
        )
        self._model.fit(features, labels)

    def score(self, features: Floats) -> Floats:
        """Return log-probabilities of shape (n, C)."""
        found = self._model.decision_function((features - self._mean) / self._std)
        return class_scores(found)


def class_scores(decision: npt.NDArray[np.floating]) -> Floats:
    """Return log-probabilities (n, C) for what scikit-learn's decision functions return."""
    odds = np.stack([-decision / 2, decision / 2], axis=1) if decision.ndim == 1 else decision
    return np.asarray(log_softmax(odds, axis=1), dtype=np.float32)
