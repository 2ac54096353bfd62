"""How well the global model recognises emotions."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import confusion_matrix, recall_score

from client.corpora.base import EMOTIONS
from client.mechanism import Arrays
from client.model import ModelConfig, Recogniser, load_arrays

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


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


def uar(labels: Ints, predicted: Ints) -> float:
    """Return the recall averaged over the classes that occur in `labels`."""
    occurring = np.unique(labels)
    return float(
        recall_score(labels, predicted, labels=occurring, average="macro", zero_division=0)
    )


class Evaluator:
    """Evaluates a global model on all clients' held-out utterances and on the test speakers.

    In a simulation both sets are at hand, so one batched forward pass a round replaces a
    message to every client.

    Parameters
    ----------
    validation, test : tuple of ndarray
        Features (n, d) and labels (n,).
    """

    def __init__(
        self,
        config: ModelConfig,
        validation: tuple[Floats, Ints],
        test: tuple[Floats, Ints],
    ) -> None:
        self._validation, self._test = validation, test
        self._model = Recogniser(config, test[0].shape[1], len(EMOTIONS)).eval()

    def __call__(self, arrays: Arrays) -> Scores:
        """Score one model."""
        load_arrays(self._model, arrays)
        validated = self._predict(self._validation[0])
        tested = self._predict(self._test[0])
        labels = self._test[1]
        return Scores(
            validation_uar=uar(self._validation[1], validated),
            test_uar=uar(labels, tested),
            test_accuracy=float(np.mean(labels == tested)),
            confusion=confusion_matrix(labels, tested, labels=np.arange(len(EMOTIONS))),
        )

    def _predict(self, features: Floats) -> Ints:
        with torch.inference_mode():
            scores: torch.Tensor = self._model(torch.from_numpy(features))
            return np.asarray(scores.argmax(dim=1).numpy())
