"""The centroid attack of Al-Ali et al. (2025, arXiv:2510.13357): nearest class in statistics.

It was published for large speech recognisers. Here it reads the same four statistics of each
recorded tensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedser.attacks.algorithms.base import Stream, gather
from fedser.common.arrays import Floats


@dataclass
class Centroid:
    """Compare the statistics of an update with their mean over each class of shadow updates.

    Statistics are the mean, standard deviation, smallest and largest entry of each tensor. Each
    statistic is divided by its standard deviation over shadow updates. The distance is Euclidean.

    Attributes
    ----------
    max_examples : int or None
        Maximum number of shadow updates to fit to; None: all.
    """

    name: ClassVar[str] = "centroid"
    max_examples: int | None

    def features(self, gradients: Mapping[str, Floats]) -> Floats:
        """Return (k, 4 t) statistics of t tensors."""
        columns = []
        for tensor in gradients.values():
            flat = tensor.reshape(len(tensor), -1)
            columns += [flat.mean(axis=1), flat.std(axis=1), flat.min(axis=1), flat.max(axis=1)]
        return np.stack(columns, axis=1)

    def fit(self, examples: Stream) -> None:
        """Compute the centroids (C, 4 t)."""
        features, labels = gather(self.features, examples)
        spread = features.std(axis=0, dtype=np.float64)
        self._spread = np.where(spread > 0, spread, 1)
        scaled = features / self._spread
        self._centroids = np.stack([scaled[labels == c].mean(axis=0) for c in np.unique(labels)])

    def score(self, features: Floats) -> Floats:
        """Return minus the distance of each update to each centroid, (n, C).

        The published attack has no probabilities. The negative distances replace them: only their
        order matters.
        """
        differences = (features / self._spread)[:, None] - self._centroids
        return np.asarray(-np.linalg.norm(differences, axis=2), dtype=np.float32)
