"""Score how well the global model recognises emotions."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from fedser.client.corpora.base import EMOTIONS
from fedser.client.models.base import ModelConfig, load_arrays
from fedser.client.training.evaluation import confusion_matrices
from fedser.common.arrays import Arrays, Floats, Ints


@dataclass(frozen=True)
class ModelScores:
    """Figures of one global model.

    Attributes
    ----------
    validation_uar, test_uar : float
        Unweighted average recall over the classes that occur, 0 to 1.
    test_accuracy : float
    confusion : ndarray of int64, shape (classes, classes)
        Test utterances by true (row) and predicted (column) class.
    utterances : int
        Number of utterances it was evaluated on, validation and test together.
    """

    validation_uar: float
    test_uar: float
    test_accuracy: float
    confusion: Ints
    utterances: int


def uar(confusion: Ints) -> float:
    """Return the recall averaged over the classes that occur in a confusion matrix."""
    count = confusion.sum(axis=1)
    occurring = count > 0
    recalls = confusion.diagonal()[occurring] / count[occurring]
    return float(recalls.mean()) if occurring.any() else math.nan


class Evaluator:
    """Evaluates a global model on all clients' held-out utterances and on the test speakers.

    In a simulation both sets are in memory, so one batched forward pass per round replaces one
    message per client.

    Parameters
    ----------
    validation, test : tuple of ndarray
        Features (n, d), or (n, T, d) of frames, and labels (n,).
    threads : int
        Threads that share the utterances.
    """

    def __init__(
        self,
        config: ModelConfig,
        validation: tuple[Floats, Ints],
        test: tuple[Floats, Ints],
        threads: int,
    ) -> None:
        self._sets, self._threads = (validation, test), threads
        self._model = config.network(test[0].shape[-1], len(EMOTIONS)).eval()

    def __call__(self, arrays: Arrays) -> ModelScores:
        """Score one model."""
        load_arrays(self._model, arrays)
        return scores_of(*confusion_matrices(self._model, self._sets, self._threads))


class FiniteScores:
    """Checks on two made-up utterances that a global model gives finite scores.

    Parameters
    ----------
    dimension : int
        Number of features.
    """

    def __init__(self, config: ModelConfig, dimension: int) -> None:
        shape = (2, 3, dimension) if config.reads_frames else (2, dimension)
        features = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        self._features = torch.from_numpy(features)
        self._model = config.network(dimension, len(EMOTIONS)).eval()

    def __call__(self, arrays: Arrays) -> bool:
        """Return whether all scores of one model are finite."""
        load_arrays(self._model, arrays)
        with torch.inference_mode():
            return bool(torch.isfinite(self._model(self._features)).all())


def scores_of(validated: Ints, tested: Ints) -> ModelScores:
    """Return the figures of two confusion matrices; NaN for a matrix without an utterance."""
    return ModelScores(
        validation_uar=uar(validated),
        test_uar=uar(tested),
        test_accuracy=float(tested.trace() / tested.sum()) if tested.any() else math.nan,
        confusion=tested,
        utterances=int(validated.sum() + tested.sum()),
    )
