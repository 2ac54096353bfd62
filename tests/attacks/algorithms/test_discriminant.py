"""The correlation discriminant, against a slow loop."""

import numpy as np
import pytest
from scipy.special import log_softmax

from fedser.attacks.algorithms.discriminant import CorrelationDiscriminant


def unit_columns(matrices):
    return matrices / np.linalg.norm(matrices, axis=-2, keepdims=True)


def made_columns(count, side=6, rows=5, seed=0):
    """Return random matrices with correlations that depend on the class, labels and groups."""
    rng = np.random.default_rng(seed)
    labels, groups = np.arange(count) % 3, np.arange(count) // 3 % 4
    mixing = np.eye(side) + 0.5 * rng.normal(size=(3, side, side))
    columns = unit_columns(rng.normal(size=(count, rows, side)) @ mixing[labels])
    return columns.astype(np.float32), labels, groups


def slow_scores(known, labels, unknown, classes=3):
    """Return scores of a diagonal discriminant on the cosines of all pairs of columns."""

    def cosines(sums):
        side = sums.shape[1]
        table = np.zeros((side, side))
        for a, b in np.ndindex(side, side):
            one, two = sums[:, a].astype(np.float64), sums[:, b].astype(np.float64)
            table[a, b] = one @ two / np.sqrt((one @ one) * (two @ two))
        return table

    numbers = np.array([cosines(sums) for sums in known])
    of_class = [numbers[labels == c] for c in range(classes)]
    within = np.mean([np.var(numbers, axis=0) for numbers in of_class], axis=0)
    scores = []
    for sums in unknown:
        seen = cosines(sums)
        row = []
        for numbers in of_class:
            mean, total = numbers.mean(axis=0), 0.0
            for a, b in np.ndindex(*seen.shape):
                if a != b:
                    total -= (seen[a, b] - mean[a, b]) ** 2 / (2 * within[a, b])
            row.append(total / seen.size)
        scores.append(row)
    return log_softmax(scores, axis=1)


@pytest.mark.parametrize(("count", "side", "rows"), [(12, 6, 5), (300, 6, 5), (12, 30, 20)])
def test_scores_are_those_of_a_slow_diagonal_discriminant(count, side, rows):
    known, labels, groups = made_columns(count, side, rows)
    unknown, _, _ = made_columns(20, side, rows, seed=1)
    found = CorrelationDiscriminant(known, labels, groups, 3).score(unknown)
    expected = slow_scores(known, labels, unknown)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_duplicated_column_adds_nothing():
    """Rounding must not turn a zero variance into a small one, which would outweigh the rest."""
    known, labels, groups = made_columns(60, rows=20)
    unknown, _, _ = made_columns(20, rows=20, seed=1)
    doubled, seen = (np.concatenate([columns, columns], axis=2) for columns in (known, unknown))
    found = CorrelationDiscriminant(doubled, labels, groups, 3).score(seen)
    expected = slow_scores(
        known, labels, unknown
    )  # four times as many, each with a quarter of the weight
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("group", range(4))
def test_leaving_out_a_group_equals_fitting_without_it(group):
    known, labels, groups = made_columns(120)
    unknown, _, _ = made_columns(20, seed=1)
    found = CorrelationDiscriminant(known, labels, groups, 3).score(unknown, group)
    kept = groups != group
    expected = CorrelationDiscriminant(known[kept], labels[kept], groups[kept], 3).score(unknown)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    everyone = CorrelationDiscriminant(known, labels, groups, 3).score(unknown)
    assert np.abs(found - everyone).max() > 1e-3


def test_a_class_without_a_matrix_has_a_score():
    known, labels, groups = made_columns(60)
    scores = CorrelationDiscriminant(known, labels, groups, 4).score(known)
    assert scores.shape == (60, 4) and np.isfinite(scores).all()
