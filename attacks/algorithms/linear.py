"""The linear classifier behind the attacks on order-invariant numbers."""

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from fedser.common.arrays import Floats, Ints


class LinearClassifier:
    """L2-regularised logistic regression on numbers z-scored with shadow statistics.

    An attack keeps its decisions of each update, which are far fewer than the numbers: they
    are linear in these, so that the mean of several updates' decisions is that of their mean.

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

    def decide(self, features: Floats) -> Floats:
        """Return what is linear in (n, p) numbers: a column a class, or one for two classes."""
        found = self._model.decision_function((features - self._mean) / self._std)
        return np.asarray(found, dtype=np.float32).reshape(len(features), -1)


def class_scores(decision: npt.NDArray[np.floating]) -> Floats:
    """Return log-probabilities (n, C) for what decision functions return: (n,), (n, 1), (n, C)."""
    odds = decision.reshape(len(decision), -1)
    if odds.shape[1] == 1:
        odds = np.concatenate([-odds / 2, odds / 2], axis=1)
    return np.asarray(log_softmax(odds, axis=1), dtype=np.float32)
