"""What every attack is asked."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fedser.common.arrays import Floats, Ints


@dataclass(frozen=True)
class ShadowUpdates:
    """k updates of the adversary's own speakers, to learn from.

    Attributes
    ----------
    gradients : mapping of str to ndarray of float32, shape (k, ...)
        Pseudo-gradients by parameter.
    labels : ndarray of int64, shape (k,)
        Class of the attribute, 0 to C - 1.
    """

    gradients: dict[str, Floats]
    labels: Ints


Stream = Callable[[], Iterator[ShadowUpdates]]
"""Reads the examples anew whenever it is called: they need not fit into memory."""


class Attack(Protocol):
    """Infers an attribute of a speaker from updates of their client, in any federation.

    `fit` sees updates of the adversary's own shadow clients, whose attributes it knows;
    `score` judges the victims' by the numbers that `features` then reads, or by their mean over
    several updates. They should be few: ``transcript.store=features`` keeps them alone.
    """

    @property
    def name(self) -> str:
        """Name in ``attack=``."""
        ...

    @property
    def max_examples(self) -> int | None:
        """How many shadow updates `fit` is given at most."""
        ...

    def fit(self, examples: Stream) -> None:
        """Learn from examples of every class."""
        ...

    def features(self, gradients: Mapping[str, Floats]) -> Floats:
        """Return (k, p) numbers for k pseudo-gradients."""
        ...

    def score(self, features: Floats) -> Floats:
        """Return the log-probabilities (k, C) of the classes, up to a constant a row."""
        ...


def gather(read: Callable[[Mapping[str, Floats]], Floats], examples: Stream) -> tuple[Floats, Ints]:
    """Return what is read of all examples, (n, p), and their labels (n,)."""
    found = [(read(batch.gradients), batch.labels) for batch in examples()]
    features, labels = zip(*found, strict=True)
    return np.concatenate(features), np.concatenate(labels)


def layers_of(gradients: Mapping[str, Floats]) -> Iterator[tuple[str, Floats, Floats]]:
    """Yield each recorded layer's name, weight gradient (k, h, d) and bias gradient (k, h).

    A layer has no bias where a bias would change nothing: its gradient is 0.
    """
    for name, weight in gradients.items():
        if name.endswith(".weight"):
            layer = name.removesuffix(".weight")
            bias = gradients.get(f"{layer}.bias")
            yield layer, weight, np.zeros_like(weight[:, :, 0]) if bias is None else bias


def score_columns(scores: Floats) -> dict[str, Floats]:
    """Return scores (n, C) as columns of a table, ``score_0`` to ``score_{C-1}``."""
    return {f"score_{c}": column for c, column in enumerate(scores.T)}
