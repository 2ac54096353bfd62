"""Second-order attack: correlations between the variables of a layer's update.

Correlations over hidden units between the gradients of two input features do not depend on the
units' order, and they echo how these features covary in the client's speech. Independent noise
on every weight leaves them unbiased: it averages out over hidden units and over updates.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from attacks.invariants import samples
from attacks.linear import LinearAttack
from attacks.tap import Stream

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

TINY = np.float32(1e-12)


@dataclass
class Correlation(LinearAttack):
    """Logistic regression on those correlations that differ most between shadow speakers' classes.

    Of all pairs of variables those are kept whose mean correlation differs most between the
    classes: a chosen difference outlasts noise that a typical one drowns in.

    Attributes
    ----------
    pairs : int
        How many to keep, over all layers.
    """

    name: ClassVar[str] = "correlation"
    pairs: int

    def features(self, gradients: Mapping[str, Floats]) -> Floats:
        """Return (k, p) correlations; a variable without spread correlates with nothing.

        Of hidden layers the singular values are read, over the root of their squares' sum.
        """
        read = [
            np.stack([_second_order(one)[places] for one in sample])
            for sample, places in zip(samples(gradients), self._places, strict=True)
        ]
        return np.concatenate(read, axis=1)

    def fit(self, examples: Stream) -> None:
        """Choose the pairs in a first pass over the examples, and learn in a second."""
        apart = [np.where(np.tri(*a.shape), -1, a).ravel() for a in _class_spreads(examples)]
        ranked = np.argsort(-np.concatenate(apart), kind="stable")
        kept = np.sort(ranked[: min(self.pairs, sum(int((a >= 0).sum()) for a in apart))])
        ends = np.cumsum([len(a) for a in apart])
        self._places = [
            kept[(kept >= end - len(a)) & (kept < end)] - (end - len(a))
            for a, end in zip(apart, ends, strict=True)
        ]
        super().fit(examples)


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
