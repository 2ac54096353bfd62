"""The linear classifier of the attacks on numbers that do not depend on the order of units."""

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from fedser.common.arrays import Floats, Ints


class LinearClassifier:
    """L2-regularised logistic regression on numbers that are z-scored over shadow updates.

    The features of an attack are the decisions, which are far fewer than the numbers. A decision
    is linear in the numbers, so the mean decision of several updates is the decision on their mean.

    Parameters
    ----------
    inverse_regularisation : float
        ``C`` of `sklearn.linear_model.LogisticRegression`.
    """

    def __init__(self, inverse_regularisation: float) -> None:
        from sklearn.linear_model import LogisticRegression  # slow to import, only for fitting

        self._model = LogisticRegression(
            C=inverse_regularisation, class_weight="balanced", max_iter=500
        )

    def fit(self, features: Floats, labels: Ints) -> None:
        """Fit to (n, p) numbers. They are z-scored in place, because a copy needs much memory."""
        self._mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
        features -= self._mean
        spread = np.sqrt(np.einsum("ij,ij->j", features, features) / len(features))
        self._std = np.where(spread > 0, spread, 1).astype(np.float32)
        features /= self._std
        self._model.fit(features, labels)

    def decide(self, features: Floats) -> Floats:
        """Return the decisions on (n, p) numbers: (n, C), or (n, 1) for two classes."""
        found = self._model.decision_function((features - self._mean) / self._std)
        return np.asarray(found, dtype=np.float32).reshape(len(features), -1)


def class_scores(decision: npt.NDArray[np.floating]) -> Floats:
    """Return log-probabilities (n, C) for decisions of shape (n,), (n, 1) or (n, C)."""
    odds = decision.reshape(len(decision), -1)
    if odds.shape[1] == 1:
        odds = np.concatenate([-odds / 2, odds / 2], axis=1)
    return np.asarray(log_softmax(odds, axis=1), dtype=np.float32)
