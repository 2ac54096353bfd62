import numpy as np
import pytest
from sklearn import metrics

from client.evaluation import confusion_matrix
from client.mlp import Mlp
from client.model import initial_arrays
from server.evaluate import Evaluator, uar


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
