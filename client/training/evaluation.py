"""How a model classifies utterances."""

from collections.abc import Sequence

import numpy as np
import torch

from fedser.client.corpora.base import EMOTIONS
from fedser.client.models.base import Recogniser
from fedser.client.training.dataset import trim
from fedser.common.arrays import Floats, Ints
from fedser.common.threads import spread

BLOCK = 512
"""Vectors, or about as many frames, a forward pass: what lies between layers stays in a core's
cache."""


def confusion_matrices(
    model: Recogniser, sets: Sequence[tuple[Floats, Ints]], threads: int
) -> list[Ints]:
    """Return the confusion matrix of each set of utterances.

    Parameters
    ----------
    sets : sequence of (ndarray, ndarray)
        Features (n, d), or (n, T, d) of frames, and labels (n,).
    """
    blocks = [block for features, _ in sets for block in _blocks(features)]

    def classify(features: Floats) -> Ints:
        with torch.inference_mode():
            scores: torch.Tensor = model(trim(torch.from_numpy(features)))
            return np.asarray(scores.argmax(dim=1).numpy())

    predicted = np.concatenate(spread(threads, classify, blocks))
    parts = np.split(predicted, np.cumsum([len(labels) for _, labels in sets])[:-1])
    return [
        confusion_matrix(labels, part, len(EMOTIONS))
        for (_, labels), part in zip(sets, parts, strict=True)
    ]


def _blocks(features: Floats) -> list[Floats]:
    rows = features.size // features.shape[-1]
    return np.array_split(features, max(1, min(len(features), -(-rows // BLOCK))))


def confusion_matrix(labels: Ints, predicted: Ints, classes: int) -> Ints:
    """Return how many utterances there are by true (row) and predicted (column) class."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, -1)
