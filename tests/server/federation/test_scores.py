import numpy as np
import pytest
import torch
from sklearn import metrics

from fedser.client.features.frames import unpad
from fedser.client.models.base import initial_arrays, load_arrays
from fedser.client.models.mlp import Mlp
from fedser.client.training.evaluation import confusion_matrix
from fedser.server.federation.scores import Evaluator, uar
from tests.examples import ATTENTION, FEATURES, corpus_of_frames


def test_uar_is_the_mean_recall_of_the_classes_that_occur():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 4, (2, 200))
    confusion = confusion_matrix(labels, predicted, 4)
    np.testing.assert_array_equal(confusion, metrics.confusion_matrix(labels, predicted))
    assert uar(confusion) == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    assert uar(confusion_matrix(np.array([0, 0, 1]), np.array([0, 3, 1]), 4)) == 0.75
    assert uar(confusion_matrix(np.array([2, 2]), np.array([1, 1]), 4)) == 0.0


def test_scores_agree_with_a_forward_pass_by_hand():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(50, 5)).astype(np.float32)
    labels = rng.integers(0, 4, 50)
    arrays = initial_arrays(Mlp(hidden=[6]), 5, 4, seed=0)
    hidden = np.maximum(features @ arrays["dense.0.weight"].T + arrays["dense.0.bias"], 0)
    predicted = (hidden @ arrays["dense.1.weight"].T + arrays["dense.1.bias"]).argmax(axis=1)
    scores = Evaluator(Mlp(hidden=[6]), (features[:20], labels[:20]), (features, labels), 2)(arrays)
    assert scores.test_accuracy == pytest.approx((predicted == labels).mean())
    assert scores.test_uar == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    assert scores.validation_uar == pytest.approx(
        metrics.balanced_accuracy_score(labels[:20], predicted[:20])
    )
    assert scores.confusion.sum() == 50
    assert scores.confusion.trace() == (predicted == labels).sum()


def test_frames_are_scored_in_batches_as_one_by_one():
    data = corpus_of_frames()
    arrays = initial_arrays(ATTENTION, FEATURES, 4, seed=0)
    sets = (data.features[:20], data.labels[:20]), (data.features, data.labels)
    network = ATTENTION.network(FEATURES, 4)
    load_arrays(network, arrays)
    alone = [network(torch.from_numpy(unpad(one[None]))[None]) for one in data.features]
    predicted = torch.cat(alone).argmax(dim=1).numpy()
    for threads in (1, 3):
        scores = Evaluator(ATTENTION, *sets, threads)(arrays)
        np.testing.assert_array_equal(
            scores.confusion, metrics.confusion_matrix(data.labels, predicted)
        )
        assert scores.validation_uar == pytest.approx(
            metrics.balanced_accuracy_score(data.labels[:20], predicted[:20])
        )
    assert len(set(predicted)) > 1
