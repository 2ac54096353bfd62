"""The AUC over speakers, its interval and its permutation test, against slow loops."""

import math
from itertools import combinations, permutations

import numpy as np
import pytest
from scipy.stats import kstest
from sklearn.metrics import roc_auc_score

from fedser.attacks.evaluation.significance import (
    FoldSamples,
    count_pairs,
    in_folds,
    interval,
    mean_auc,
    percentiles,
    permutation_p_value,
    resample_speakers,
)

TINY = 1e-5  # a distribution test fails below this p-value


def two_class(score, speaker, label):
    """Return draws of two classes, from the log-odds of the second."""
    return FoldSamples(np.column_stack([-score, score]), speaker, label.astype(int))


def samples(rng, label, absent=(), shift=0.0, between=1.0, draws=(2, 6)):
    """Return folds that each lack some speakers; the draws of a speaker share an offset."""
    label = np.asarray(label)
    offset = between * rng.normal(size=len(label))
    folds = []
    for missing in absent or [()]:
        speaker = np.repeat(np.arange(len(label)), rng.integers(*draws, len(label)))
        speaker = speaker[~np.isin(speaker, missing)]
        score = shift * label[speaker] + offset[speaker] + rng.normal(size=len(speaker))
        folds.append(two_class(score, speaker, label[speaker]))
    return folds


def three_class(rng, label, absent=(), strength=0.0, draws=4):
    """Return folds with independent log-odds of three classes, higher for the true class."""
    label = np.asarray(label)
    folds = []
    for missing in absent or [()]:
        speaker = np.repeat(np.setdiff1d(np.arange(len(label)), missing), draws)
        log_odds = strength * np.eye(3)[label[speaker]] + rng.normal(size=(len(speaker), 3))
        folds.append(FoldSamples(log_odds, speaker, label[speaker]))
    return folds


def macro_auc_of(folds, label):
    """Return the mean one-vs-rest AUC over folds by scikit-learn; NaN without a fold."""
    found = []
    for fold in folds:
        own = np.asarray(label)[fold.speaker]
        classes = np.unique(own)
        if len(classes) > 1:
            found.append(np.mean([roc_auc_score(own == c, fold.log_odds[:, c]) for c in classes]))
    return np.mean(found) if found else np.nan


def auc_of(folds, positive):
    """Return the mean AUC by scikit-learn for these positive speakers; NaN without a fold."""
    found = []
    for fold in folds:
        label = np.isin(fold.speaker, positive)
        if 0 < label.sum() < len(label):
            found.append(roc_auc_score(label, fold.log_odds[:, 1]))
    return np.mean(found) if found else np.nan


def brute_force(folds, label):
    second = np.flatnonzero(label)
    observed = auc_of(folds, second)
    every = combinations(range(len(label)), len(second))
    found = np.array([auc_of(folds, assignment) for assignment in every])
    return np.mean(~(found < observed - 1e-9))


@pytest.mark.parametrize(
    ("label", "absent"),
    [
        ([0, 1, 0, 1, 0, 1], ()),
        ([0, 0, 1, 1, 0, 1, 1], [(0,), (1, 2), (3,)]),
        ([1, 0, 0, 0, 0], [(0,), (1,), (2,), (3,), (4,)]),  # the first fold has no positive
        ([1, 0, 0], [(0, 1), (1, 2), (2,)]),  # folds of one speaker
    ],
)
@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("digits", [9, 0])  # zero digits make ties
def test_p_is_the_share_of_enumerated_assignments(label, absent, shift, digits):
    rng = np.random.default_rng(len(label))
    folds = [
        two_class(f.log_odds[:, 1].round(digits), f.speaker, f.label)
        for f in samples(rng, label, absent, shift)
    ]
    found = permutation_p_value(count_pairs(folds), rng)
    assert found == pytest.approx(brute_force(folds, label))


@pytest.mark.parametrize(("first", "second"), [(4, 5), (1, 7), (2, 2)])
def test_perfect_separation_has_the_smallest_possible_p(first, second):
    rng = np.random.default_rng(0)
    label = rng.permutation([0] * first + [1] * second)
    counts = count_pairs(samples(rng, label, [(0,), ()], shift=1e6))
    assert permutation_p_value(counts, rng) == pytest.approx(1 / math.comb(first + second, second))
    worst = count_pairs(samples(rng, label, [(0,), ()], shift=-1e6))
    assert permutation_p_value(worst, rng) == 1


def test_equal_scores_have_p_one():
    for size in (6, 40):
        label = np.arange(size) % 2
        fold = two_class(np.ones(size), np.arange(size), label)
        assert permutation_p_value(count_pairs([fold]), np.random.default_rng(0)) == 1


def test_random_permutations_agree_with_all_permutations(monkeypatch):
    rng = np.random.default_rng(1)
    counts = count_pairs(samples(rng, np.arange(12) % 2, [(0,), (1,)], shift=0.5))
    exact = permutation_p_value(counts, rng)  # 924 assignments
    monkeypatch.setattr("fedser.attacks.evaluation.significance.PERMUTATIONS", 923)
    found = [permutation_p_value(counts, np.random.default_rng(seed)) for seed in range(40)]
    assert all(round(p * 924, 6) == round(p * 924) for p in found)  # (1 + count) / (1 + 923)
    # 40 * 923 random assignments: the mean is within five standard errors
    assert 0.05 < exact < 0.95
    spread = math.sqrt(exact * (1 - exact) / (40 * 923))
    assert np.mean(found) == pytest.approx(exact, abs=5 * spread + 1 / 924)


def test_separation_of_many_speakers_has_the_smallest_random_p():
    rng = np.random.default_rng(2)
    counts = count_pairs(samples(rng, np.arange(40) % 2, shift=1e6))
    assert permutation_p_value(counts, rng) == 1 / 5001


@pytest.mark.parametrize("speakers", [12, 16])  # 924 assignments, and 12,870
def test_p_is_uniform_if_labels_are_independent_of_scores(speakers):
    rng = np.random.default_rng(speakers)
    label, absent = np.arange(speakers) % 2, [(0, 1), (2, 3), (4,)]
    found = []
    for _ in range(250):
        folds = samples(rng, label, absent, between=2.0, draws=(10, 20))
        found.append(permutation_p_value(count_pairs(folds), rng))
    assert kstest(found, "uniform").pvalue > TINY
    assert np.mean(np.array(found) <= 0.05) < 0.12  # binomial(250, 0.05): probability 1e-5


def test_p_keeps_its_level_if_folds_lack_a_class():
    rng = np.random.default_rng(3)
    absent = [(0,), (1,), (2,), (3,), (4,)]
    found = []
    for _ in range(400):
        label = rng.permutation([1, 0, 0, 0, 0])
        found.append(permutation_p_value(count_pairs(samples(rng, label, absent)), rng))
    # five assignments: p is uniform on 0.2, 0.4, ... 1
    share = np.bincount((np.array(found) * 5).round().astype(int), minlength=6)[1:] / 400
    assert share == pytest.approx([0.2] * 5, abs=4.5 * math.sqrt(0.2 * 0.8 / 400))


def test_auc_with_weights_equals_auc_of_repeated_speakers():
    rng = np.random.default_rng(4)
    folds = samples(rng, [0, 1, 1, 0, 1], [(0,), (1,), ()], shift=0.5)
    counts = count_pairs(folds)
    label = np.array([[1, 0, 0, 1, 0], [0, 1, 1, 0, 1]])
    weights = np.array([[2.0, 0, 1, 1, 3], [1, 1, 2, 0, 1]])
    for row, weight, found in zip(label, weights, mean_auc(counts, label, weights), strict=True):
        expected = auc_of(repeat(folds, weight), np.flatnonzero(row))
        assert found == pytest.approx(expected)


def repeat(folds, weight):
    """Return folds that repeat each draw by the weight of its speaker."""
    repeated = []
    for fold in folds:
        times = weight[fold.speaker].astype(int)
        columns = (fold.log_odds, fold.speaker, fold.label)
        repeated.append(FoldSamples(*(np.repeat(c, times, axis=0) for c in columns)))
    return repeated


@pytest.mark.parametrize("digits", [9, 0])
def test_macro_auc_with_weights_equals_repeated_speakers(digits):
    rng = np.random.default_rng(6)
    folds = [
        FoldSamples(f.log_odds.round(digits), f.speaker, f.label)
        for f in three_class(rng, [0, 1, 2, 0, 1, 2], [(0,), (1, 4), (0, 3)], strength=0.5)
    ]
    counts = count_pairs(folds)
    label = np.array([[0, 1, 2, 0, 1, 2], [2, 2, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1]])
    weights = rng.integers(0, 4, size=(3, 6)).astype(float)
    plain, weighted = mean_auc(counts, label), mean_auc(counts, label, weights)
    for row, weight, once, often in zip(label, weights, plain, weighted, strict=True):
        assert once == pytest.approx(macro_auc_of(folds, row))
        assert often == pytest.approx(macro_auc_of(repeat(folds, weight), row), nan_ok=True)


def test_the_interval_agrees_with_a_slow_loop():
    rng = np.random.default_rng(7)
    folds = three_class(rng, [0, 1, 2, 0, 1, 2, 2], [(0,), (5, 6)], strength=0.5)
    weights = resample_speakers(np.ones(7, bool), 80, np.random.default_rng(1))
    assert (weights.sum(axis=1) == 7).all()
    label = np.array([0, 1, 2, 0, 1, 2, 2])
    found = np.array([macro_auc_of(repeat(folds, weight), label) for weight in weights])
    expected = np.nanquantile(found, [0.025, 0.975])
    low_high = interval(count_pairs(folds), 80, np.random.default_rng(1))
    assert low_high == pytest.approx(expected)
    assert percentiles(np.append(found, np.nan)) == pytest.approx(expected)


def test_absent_speakers_are_not_drawn():
    present = np.array([True, False, True, True])
    weights = resample_speakers(present, 50, np.random.default_rng(0))
    assert (weights[:, 1] == 0).all() and (weights.sum(axis=1) == 3).all()


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_p_of_three_classes_agrees_with_all_permutations(strength):
    rng = np.random.default_rng(8)
    label = [0, 0, 1, 1, 2, 2]
    folds = three_class(rng, label, [(0,), (3,)], strength)
    every = np.array(sorted(set(permutations(label))))  # 90 labellings
    found = np.array([macro_auc_of(folds, row) for row in every])
    exact = np.mean(found >= macro_auc_of(folds, label) - 1e-9)
    spread = math.sqrt(exact * (1 - exact) / 5000)
    assert permutation_p_value(count_pairs(folds), rng) == pytest.approx(
        exact, abs=5 * spread + 1 / 5000
    )


def test_p_of_three_classes_is_uniform_for_independent_labels():
    rng = np.random.default_rng(9)
    found = [
        permutation_p_value(count_pairs(three_class(rng, np.arange(9) % 3, [(0,), (1,)])), rng)
        for _ in range(100)
    ]
    assert kstest(found, "uniform").pvalue > TINY


def test_auc_is_nan_if_no_fold_has_two_classes():
    rng = np.random.default_rng(5)
    folds = samples(rng, [0, 1, 0], [(1,), ()])
    counts = count_pairs(folds)
    first = in_folds(counts, np.array([True, False]))
    assert np.isnan(mean_auc(first, np.array([[0, 1, 0]]))[0])
    assert interval(first, 10, rng) is None
    second = in_folds(counts, np.array([False, True]))
    expected = auc_of(folds[1:], [1])
    assert mean_auc(second, np.array([[0, 1, 0]]))[0] == pytest.approx(expected)
