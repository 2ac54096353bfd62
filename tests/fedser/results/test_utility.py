import numpy as np
import pytest

from fedser.results.utility import chance_uar, fold_chance
from fedser.server.federation.scores import uar


@pytest.mark.parametrize(
    ("confusions", "expected"),
    [
        ([], 0.25),
        ([None], 0.25),
        ([np.eye(4)], 0.25),
        ([np.diag([5, 0, 2, 9])], 1 / 3),
        ([np.diag([5, 0, 0, 9]), np.ones((4, 4))], (1 / 2 + 1 / 4) / 2),
        ([np.zeros((4, 4))], 0.25),
        ([[[0, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]], 1.0),
    ],
)
def test_chance_follows_the_classes_in_each_test_set(confusions, expected, results):
    folds = [
        {} if confusion is None else {"confusion": np.asarray(confusion, int).tolist()}
        for confusion in confusions
    ]
    results["utility"]["per_fold"] = folds
    assert chance_uar(results) == pytest.approx(expected)


@pytest.mark.parametrize("present", [(0, 1, 2, 3), (0, 2, 3), (1, 3), (2,)])
def test_chance_is_the_uar_of_always_naming_one_emotion(present):
    for named in present:
        confusion = np.zeros((4, 4), int)
        confusion[list(present), named] = np.arange(1, len(present) + 1)
        assert fold_chance({"confusion": confusion.tolist()}) == pytest.approx(uar(confusion))
