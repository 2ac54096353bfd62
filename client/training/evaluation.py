"""Confusion matrices of a model."""

from collections.abc import Sequence

import numpy as np
import torch

from fedser.client.corpora.base import EMOTIONS
from fedser.client.models.base import Recogniser
from fedser.client.training.dataset import trim
from fedser.common.arrays import Floats, Ints
from fedser.common.threads import spread

BLOCK = 512
"""Vectors (or about as many frames) per forward pass: activations then fit a core's cache."""


def confusion_matrices(
    model: Recogniser, sets: Sequence[tuple[Floats, Ints]], threads: int
) -> list[Ints]:
    """Return the confusion matrix of each set of utterances.

    Parameters
    ----------
    sets : sequence of (ndarray, ndarray)
        Features (n, d), or (n, T, d) of frames, and labels (n,).
    threads : int
        Number of threads that classify.
    """
    blocks = [block for features, _ in sets for block in _blocks(features)]

    def classify(features: Floats) -> Ints:
        with torch.inference_mode():
            scores: torch.Tensor = model(trim(torch.from_numpy(features)))
            return np.asarray(scores.argmax(dim=1).numpy())

    predicted = np.concatenate(spread(threads, classify, blocks))
    by_set = np.split(predicted, np.cumsum([len(labels) for _, labels in sets])[:-1])
    return [
        confusion_matrix(labels, own, len(EMOTIONS))
        for (_, labels), own in zip(sets, by_set, strict=True)
    ]


def _blocks(features: Floats) -> list[Floats]:
    rows = features.size // features.shape[-1]
    return np.array_split(features, max(1, min(len(features), -(-rows // BLOCK))))


def confusion_matrix(labels: Ints, predicted: Ints, classes: int) -> Ints:
    """Return the number of utterances by true class (row) and predicted class (column)."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, -1)
