"""Second-order attack: correlations between the variables of a layer's update.

Correlations over hidden units between the gradients of two input features do not depend on the
units' order, and they echo how these features covary in the client's speech. Independent noise
on every weight leaves them unbiased: it averages out over hidden units and over updates.
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
    """Two logistic regressions, on correlations of neighbours and on those that differ most.

    Neighbours among openSMILE's features are functionals of one contour and of the next ones;
    few numbers are as alike in all languages. Of all pairs, those whose mean correlation
    differs most between the shadow classes outlast noise that a typical one drowns in. Either
    errs elsewhere, and their log-odds are added.

    Attributes
    ----------
    reach : int
        How far apart neighbours are at most; 0 for none.
    pairs : int
        How many of the pairs that differ most, over all layers; 0 for none.
    inverse_regularisation, max_examples
        As of `attacks.algorithms.statistics.Statistics`.
    """

    name: ClassVar[str] = "correlation"
    reach: int
    pairs: int
    inverse_regularisation: float
    max_examples: int | None

    def fit(self, examples: Stream) -> None:
        """Choose the pairs in a first pass over the examples, and learn in a second."""
        apart = _class_spreads(examples)
        self._near = [_neighbours(len(layer), self.reach) for layer in apart]
        self._differing = _largest(apart, self.pairs)
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
        """Return the decisions of either, side by side: (k, 2 C), or (k, 2) for two classes."""
        found = self.correlations(gradients)
        return np.concatenate([head.decide(found[:, part]) for part, head in self._heads], axis=1)

    def score(self, features: Floats) -> Floats:
        """Return log-probabilities of shape (n, C), up to a constant a row."""
        decisions = np.split(features, len(self._heads), axis=1)
        return np.asarray(sum(class_scores(decision) for decision in decisions))

    def correlations(self, gradients: Mapping[str, Floats]) -> Floats:
        """Return (k, p) correlations; a variable without spread correlates with nothing.

        Of hidden layers the largest singular values are read, over the root of their squares' sum.
        """
        layers = [[_second_order(one) for one in sample] for sample in samples(gradients)]
        read = [
            np.stack([one[places] for one in layer])
            for chosen in (self._near, self._differing)
            for layer, places in zip(layers, chosen, strict=True)
        ]
        return np.concatenate(read, axis=1)


def _neighbours(side: int, reach: int) -> Ints:
    """Return the places in a flattened (side, side) matrix of pairs so close, each once."""
    first, second = np.triu_indices(side, 1)
    near = second - first <= reach
    return first[near] * side + second[near]


def _largest(apart: Sequence[Floats], count: int) -> list[Ints]:
    """Return the places of the largest entries above the diagonals of a matrix a layer."""
    flat = [np.where(np.tri(len(a), dtype=bool), -1, a).ravel() for a in apart]
    ranked = np.argsort(-np.concatenate(flat), kind="stable")
    kept = np.sort(ranked[: min(count, sum(int((a >= 0).sum()) for a in flat))])
    ends = np.cumsum([len(a) for a in flat])
    return [
        kept[(kept >= end - len(a)) & (kept < end)] - (end - len(a))
        for a, end in zip(flat, ends, strict=True)
    ]


def _second_order(sample: Floats) -> Floats:
    """Return the flattened correlations (d * d,) of d variables over hidden units.

    Of a spectrum, which is a single sample, they are its shares on the first off-diagonal.
    """
    if len(sample) == 1:
        return np.diag(sample[0] / (np.linalg.norm(sample) + TINY), 1).ravel()
    centred = sample - sample.mean(axis=0)
    centred /= np.sqrt(np.einsum("hd,hd->d", centred, centred)) + TINY
    return np.ravel(centred.T @ centred)


def _class_spreads(examples: Stream) -> list[Floats]:
    """Return how far the classes' mean correlations lie apart, a matrix a layer."""
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
