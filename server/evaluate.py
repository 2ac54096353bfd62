"""How well the global model recognises emotions."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from client.corpora.base import EMOTIONS
from client.mechanism import Arrays
from client.model import ModelConfig, Recogniser, load_arrays
from client.threads import spread

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

BLOCK = 512
"""Utterances a forward pass, at most: what lies between layers stays in a core's cache."""


@dataclass(frozen=True)
class Scores:
    """Figures of one global model.

    Attributes
    ----------
    validation_uar, test_uar : float
        Unweighted average recall over the classes that occur, 0 to 1.
    test_accuracy : float
    confusion : ndarray of int64, shape (classes, classes)
        Test utterances by true (row) and predicted (column) class.
    """

    validation_uar: float
    test_uar: float
    test_accuracy: float
    confusion: Ints


def confusion_matrix(labels: Ints, predicted: Ints, classes: int) -> Ints:
    """Return how many utterances there are by true (row) and predicted (column) class."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, -1)


def uar(confusion: Ints) -> float:
    """Return the recall averaged over the classes that occur in a confusion matrix."""
    count = confusion.sum(axis=1)
    occurring = count > 0
    return float((confusion.diagonal()[occurring] / count[occurring]).mean())


class Evaluator:
    """Evaluates a global model on all clients' held-out utterances and on the test speakers.

    In a simulation both sets are at hand, so one batched forward pass a round replaces a
    message to every client.

    Parameters
    ----------
    validation, test : tuple of ndarray
        Features (n, d) and labels (n,).
    threads : int
        Over how many the utterances are spread.
    """

    def __init__(
        self,
        config: ModelConfig,
        validation: tuple[Floats, Ints],
        test: tuple[Floats, Ints],
        threads: int,
    ) -> None:
        self._validation, self._test, self._threads = validation, test, threads
        self._model = Recogniser(config, test[0].shape[1], len(EMOTIONS)).eval()

    def __call__(self, arrays: Arrays) -> Scores:
        """Score one model."""
        load_arrays(self._model, arrays)
        sets = self._validation, self._test
        blocks = [b for f, _ in sets for b in np.array_split(f, max(1, -(-len(f) // BLOCK)))]
        predicted = np.concatenate(spread(self._threads, self._predict, blocks))
        parts = np.split(predicted, [len(sets[0][1])])
        validated, tested = (
            confusion_matrix(labels, part, len(EMOTIONS))
            for (_, labels), part in zip(sets, parts, strict=True)
        )
        return Scores(
            validation_uar=uar(validated),
            test_uar=uar(tested),
            test_accuracy=float(tested.trace() / tested.sum()),
            confusion=tested,
        )

    def _predict(self, features: Floats) -> Ints:
        with torch.inference_mode():
            scores: torch.Tensor = self._model(torch.from_numpy(features))
            return np.asarray(scores.argmax(dim=1).numpy())
