"""The linear classifier behind the attacks on order-invariant statistics."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass
class LinearAttack:
    """L2-regularised logistic regression on numbers z-scored with shadow statistics.

    A subclass says which numbers. Scores are log-odds and linear in them, so the score of the
    mean of several updates' numbers is the mean of their scores.

    Attributes
    ----------
    inverse_regularisation : float
        ``C`` of `sklearn.linear_model.LogisticRegression`.
    """

    inverse_regularisation: float

    def fit(self, features: Floats, labels: Ints) -> None:
        """Learn from shadow clients; `features` is z-scored in place, to save its size again."""
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
        """Return log-odds of shape (n,)."""
        return np.asarray(self._model.decision_function((features - self._mean) / self._std))
