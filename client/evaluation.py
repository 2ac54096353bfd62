"""How a model classifies utterances."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from client.corpora.base import EMOTIONS
from client.model import Recogniser
from client.threads import spread

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

BLOCK = 512
"""Utterances a forward pass, at most: what lies between layers stays in a core's cache."""


def confusion_matrices(
    model: Recogniser, sets: Sequence[tuple[Floats, Ints]], threads: int
) -> list[Ints]:
    """Return the confusion matrix of each set of utterances: features (n, d), labels (n,)."""
    blocks = [b for f, _ in sets for b in np.array_split(f, max(1, -(-len(f) // BLOCK)))]

    def classify(features: Floats) -> Ints:
        with torch.inference_mode():
            scores: torch.Tensor = model(torch.from_numpy(features))
            return np.asarray(scores.argmax(dim=1).numpy())

    predicted = np.concatenate(spread(threads, classify, blocks))
    parts = np.split(predicted, np.cumsum([len(labels) for _, labels in sets])[:-1])
    return [
        confusion_matrix(labels, part, len(EMOTIONS))
        for (_, labels), part in zip(sets, parts, strict=True)
    ]


def confusion_matrix(labels: Ints, predicted: Ints, classes: int) -> Ints:
    """Return how many utterances there are by true (row) and predicted (column) class."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, -1)
