"""Second-order attack: correlations between the variables of a layer's update.

Correlations over hidden units between the gradients of two input features do not depend on the
order of the units. They follow the covariance of these features in the client's speech. Independent
noise on every weight averages out over hidden units and over updates, without a bias.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedser.attacks.algorithms.base import Stream, gather
from fedser.attacks.algorithms.layer_samples import samples
from fedser.attacks.algorithms.linear import LinearClassifier, class_scores
from fedser.common.arrays import Floats, Ints

TINY = np.float32(1e-12)


@dataclass
class Correlation:
    """Two logistic regressions, on neighbouring pairs and on the most different pairs.

    Neighbours among openSMILE's features are functionals of one contour and of the next ones. Few
    numbers depend as little on the language. The most different pairs are the pairs of features
    with the largest difference of the mean correlation between the shadow classes. They survive
    noise that hides a typical pair. The two regressions make different errors, so their log-odds
    are added.

    Attributes
    ----------
    reach : int
        Maximum distance of neighbours, in features; 0: no neighbours.
    pairs : int
        Number of the most different pairs, over all layers; 0: none.
    inverse_regularisation, max_examples
        As in `attacks.algorithms.statistics.Statistics`.
    """

    name: ClassVar[str] = "correlation"
    reach: int
    pairs: int
    inverse_regularisation: float
    max_examples: int | None

    def fit(self, examples: Stream) -> None:
        """Choose the pairs in a first pass over the examples, and fit in a second pass."""
        spreads = _class_spreads(examples)
        self._near = [_neighbours(len(layer), self.reach) for layer in spreads]
        self._differing = _largest(spreads, self.pairs)
        features, labels = gather(self.correlations, examples)
        near, end = sum(map(len, self._near)), features.shape[1]
        parts = [slice(0, near), slice(near, end)]
        self._heads = [
            (part, LinearClassifier(self.inverse_regularisation))
            for part in parts
            if part.start < part.stop
        ]
        for part, head in self._heads:
            head.fit(features[:, part], labels)

    def features(self, gradients: Mapping[str, Floats]) -> Floats:
        """Return the decisions of both regressions: (k, 2 C), or (k, 2) for two classes."""
        found = self.correlations(gradients)
        return np.concatenate([head.decide(found[:, part]) for part, head in self._heads], axis=1)

    def score(self, features: Floats) -> Floats:
        """Return log-probabilities of shape (n, C), up to a constant per row."""
        decisions = np.split(features, len(self._heads), axis=1)
        return np.asarray(sum(class_scores(decision) for decision in decisions))

    def correlations(self, gradients: Mapping[str, Floats]) -> Floats:
        """Return (k, p) correlations; they are 0 for a variable without spread.

        For hidden layers these are the largest singular values, divided by their Euclidean norm.
        """
        layers = [[_second_order(one) for one in sample] for sample in samples(gradients)]
        read = [
            np.stack([one[places] for one in layer])
            for chosen in (self._near, self._differing)
            for layer, places in zip(layers, chosen, strict=True)
        ]
        return np.concatenate(read, axis=1)


def _neighbours(side: int, reach: int) -> Ints:
    """Return the places of each pair of neighbours in a flattened (side, side) matrix."""
    first, second = np.triu_indices(side, 1)
    near = second - first <= reach
    return first[near] * side + second[near]


def _largest(spreads: Sequence[Floats], count: int) -> list[Ints]:
    """Return the places, by layer, of the largest entries above the diagonals of all matrices."""
    flat = [np.where(np.tri(len(a), dtype=bool), -1, a).ravel() for a in spreads]
    ranked = np.argsort(-np.concatenate(flat), kind="stable")
    kept = np.sort(ranked[: min(count, sum(int((a >= 0).sum()) for a in flat))])
    ends = np.cumsum([len(a) for a in flat])
    return [
        kept[(kept >= end - len(a)) & (kept < end)] - (end - len(a))
        for a, end in zip(flat, ends, strict=True)
    ]


def _second_order(sample: Floats) -> Floats:
    """Return the flattened correlations (d * d,) of d variables over hidden units.

    For singular values, which are a single sample, return their shares on the first off-diagonal.
    """
    if len(sample) == 1:
        return np.diag(sample[0] / (np.linalg.norm(sample) + TINY), 1).ravel()
    centred = sample - sample.mean(axis=0)
    centred /= np.sqrt(np.einsum("hd,hd->d", centred, centred)) + TINY
    return np.ravel(centred.T @ centred)


def _class_spreads(examples: Stream) -> list[Floats]:
    """Return the standard deviation over classes of the mean correlations, one matrix per layer."""
    sums: dict[int, list[Floats]] = {}
    counts: dict[int, int] = defaultdict(int)
    for batch in examples():
        layers = list(samples(batch.gradients))
        for row, label in enumerate(batch.labels.tolist()):
            found = [_second_order(layer[row]) for layer in layers]
            for total, one in zip(sums.setdefault(label, found), found, strict=True):
                if total is not one:
                    total += one
            counts[label] += 1
    spreads = []
    for layers_of in zip(*sums.values(), strict=True):
        means = [total / np.float32(n) for total, n in zip(layers_of, counts.values(), strict=True)]
        spread = np.std(means, axis=0)
        side = math.isqrt(len(spread))
        spreads.append(spread.reshape(side, side))
    return spreads
