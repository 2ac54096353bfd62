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
Ints = npt.NDArray[np.int64]


class LinearClassifier:
    """L2-regularised logistic regression on numbers z-scored with shadow statistics.

    Parameters
    ----------
    inverse_regularisation : float
        ``C`` of `sklearn.linear_model.LogisticRegression`.
    """

    def __init__(self, inverse_regularisation: float) -> None:
        self._model = LogisticRegression(
            C=inverse_regularisation, class_weight="balanced", max_iter=500
        )

    def fit(self, features: Floats, labels: Ints) -> None:
        """Learn from (n, p) numbers; they are z-scored in place, to save their size again."""
        self._mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
        features -= self._mean
        spread = np.sqrt(np.einsum("ij,ij->j", features, features) / len(features))
        self._std = np.where(spread > 0, spread, 1).astype(np.float32)
        features /= self._std
        self._model.fit(features, labels)

    def score(self, features: Floats) -> Floats:
        """Return log-probabilities of shape (n, C)."""
        return class_scores(self._model.decision_function((features - self._mean) / self._std))


@dataclass
class LinearAttack(ABC):
    """A linear classifier on numbers that a subclass reads.

    Scores are linear in them for two classes, so that the score of the mean of several updates'
    numbers is then the mean of their scores.

    Attributes
    ----------
    inverse_regularisation : float
        As of `LinearClassifier`.
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
        self._classifier = LinearClassifier(self.inverse_regularisation)
        self._classifier.fit(*gather(self, examples))

    def score(self, features: Floats) -> Floats:
        """Return log-probabilities of shape (n, C)."""
        return self._classifier.score(features)


def class_scores(decision: npt.NDArray[np.floating]) -> Floats:
    """Return log-probabilities (n, C) for what scikit-learn's decision functions return."""
    odds = np.stack([-decision / 2, decision / 2], axis=1) if decision.ndim == 1 else decision
    return np.asarray(log_softmax(odds, axis=1), dtype=np.float32)
