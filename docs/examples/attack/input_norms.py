"""An attack on the strength with which input features move the first layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedser.attacks.algorithms.base import Stream, gather
from fedser.common.arrays import Floats


@dataclass
class InputNorms:
    """Logistic regression on the norm of the gradient at each input feature."""

    name: ClassVar[str] = "input_norms"
    max_examples: int | None  # shadow updates to fit to
    inverse_regularisation: float

    def features(self, gradients: Mapping[str, Floats]) -> Floats:
        """Return (k, d) norms of k gradients of the first recorded layer, (k, h, d)."""
        first = next(iter(gradients.values()))
        return np.asarray(np.linalg.norm(first, axis=1), dtype=np.float32)

    def fit(self, examples: Stream) -> None:
        """Fit to updates of speakers whose attribute the adversary knows."""
        features, labels = gather(self.features, examples)
        regression = LogisticRegression(C=self.inverse_regularisation, max_iter=1000)
        self._model = make_pipeline(StandardScaler(), regression).fit(features, labels)

    def score(self, features: Floats) -> Floats:
        """Return the log-probabilities of the classes, (n, C)."""
        return np.asarray(self._model.predict_log_proba(features), dtype=np.float32)
