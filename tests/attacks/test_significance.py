import math
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import kstest
from sklearn.metrics import roc_auc_score

from attacks.significance import FoldSamples, count_pairs, in_folds, interval, mean_auc, p_value

TINY = 1e-5  # significance at which a test of a distribution fails


def samples(rng, label, absent=(), shift=0.0, between=1.0, draws=(2, 6)):
    """Make folds that each lack some speakers; a speaker's draws share an offset."""
    label = np.asarray(label)
    offset = between * rng.normal(size=len(label))
    folds = []
    for missing in absent or [()]:
        speaker = np.repeat(np.arange(len(label)), rng.integers(*draws, len(label)))
        speaker = speaker[~np.isin(speaker, missing)]
        score = shift * label[speaker] + offset[speaker] + rng.normal(size=len(speaker))
        folds.append(FoldSamples(score, speaker, label[speaker]))
    return folds


def auc_of(folds, positive):
    """Mean AUC by scikit-learn if these speakers were the positive ones; NaN without a fold."""
    found = []
    for fold in folds:
        label = np.isin(fold.speaker, positive)
        if 0 < label.sum() < len(label):
            found.append(roc_auc_score(label, fold.score))
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
        FoldSamples(f.score.round(digits), f.speaker, f.label)
        for f in samples(rng, label, absent, shift)
    ]
    found = p_value(count_pairs(folds), rng)
    assert found == pytest.approx(brute_force(folds, label))


@pytest.mark.parametrize(("first", "second"), [(4, 5), (1, 7), (2, 2)])
def test_perfect_separation_has_the_least_p_that_so_few_speakers_allow(first, second):
    rng = np.random.default_rng(0)
    label = rng.permutation([0] * first + [1] * second)
    counts = count_pairs(samples(rng, label, [(0,), ()], shift=1e6))
    assert p_value(counts, rng) == pytest.approx(1 / math.comb(first + second, second))
    worst = count_pairs(samples(rng, label, [(0,), ()], shift=-1e6))
    assert p_value(worst, rng) == 1


def test_equal_scores_have_p_one_exactly_and_by_random_permutations():
    for size in (6, 40):
        label = np.arange(size) % 2
        fold = FoldSamples(np.ones(size), np.arange(size), label)
        assert p_value(count_pairs([fold]), np.random.default_rng(0)) == 1


def test_random_permutations_agree_with_all_of_them(monkeypatch):
    rng = np.random.default_rng(1)
    counts = count_pairs(samples(rng, np.arange(12) % 2, [(0,), (1,)], shift=0.5))
    exact = p_value(counts, rng)  # 924 assignments
    monkeypatch.setattr("attacks.significance.PERMUTATIONS", 923)
    found = [p_value(counts, np.random.default_rng(seed)) for seed in range(40)]
    assert all(round(p * 924, 6) == round(p * 924) for p in found)  # (1 + count) / (1 + 923)
    # 40 * 923 random assignments: the mean is within five standard errors
    assert 0.05 < exact < 0.95
    spread = math.sqrt(exact * (1 - exact) / (40 * 923))
    assert np.mean(found) == pytest.approx(exact, abs=5 * spread + 1 / 924)


def test_separation_of_many_speakers_has_the_least_p_of_random_permutations():
    rng = np.random.default_rng(2)
    counts = count_pairs(samples(rng, np.arange(40) % 2, shift=1e6))
    assert p_value(counts, rng) == 1 / 5001


@pytest.mark.parametrize("speakers", [12, 16])  # 924 assignments, and 12,870
def test_p_is_uniform_when_labels_say_nothing_though_a_speakers_draws_agree(speakers):
    rng = np.random.default_rng(speakers)
    label, absent = np.arange(speakers) % 2, [(0, 1), (2, 3), (4,)]
    found = []
    for _ in range(250):
        folds = samples(rng, label, absent, between=2.0, draws=(10, 20))
        found.append(p_value(count_pairs(folds), rng))
    assert kstest(found, "uniform").pvalue > TINY
    assert np.mean(np.array(found) <= 0.05) < 0.12  # binomial(250, 0.05): probability 1e-5


def test_p_keeps_its_level_where_folds_lose_a_class():
    rng = np.random.default_rng(3)
    absent = [(0,), (1,), (2,), (3,), (4,)]
    found = []
    for _ in range(400):
        label = rng.permutation([1, 0, 0, 0, 0])
        found.append(p_value(count_pairs(samples(rng, label, absent)), rng))
    # five assignments: p is uniform on 0.2, 0.4, ... 1
    share = np.bincount((np.array(found) * 5).round().astype(int), minlength=6)[1:] / 400
    assert share == pytest.approx([0.2] * 5, abs=4.5 * math.sqrt(0.2 * 0.8 / 400))


def test_auc_of_any_labels_and_weights_equals_that_of_repeated_speakers():
    rng = np.random.default_rng(4)
    folds = samples(rng, [0, 1, 1, 0, 1], [(0,), (1,), ()], shift=0.5)
    counts = count_pairs(folds)
    positive = np.array([[True, False, False, True, False], [False, True, True, False, True]])
    weights = np.array([[2.0, 0, 1, 1, 3], [1, 1, 2, 0, 1]])
    for row, weight, found in zip(
        positive, weights, mean_auc(counts, positive, weights), strict=True
    ):
        repeated = []
        for fold in folds:
            times = weight[fold.speaker].astype(int)
            repeated.append(
                FoldSamples(np.repeat(fold.score, times), np.repeat(fold.speaker, times), times)
            )
        assert found == pytest.approx(auc_of(repeated, np.flatnonzero(row)))


def test_labels_that_mix_in_no_fold_have_no_auc_and_folds_can_be_chosen():
    rng = np.random.default_rng(5)
    folds = samples(rng, [0, 1, 0], [(1,), ()])
    counts = count_pairs(folds)
    first = in_folds(counts, np.array([True, False]))
    assert np.isnan(mean_auc(first, np.array([[False, True, False]]))[0])
    assert np.isnan(interval(first, 10, rng)[0])
    second = in_folds(counts, np.array([False, True]))
    expected = auc_of(folds[1:], [1])
    assert mean_auc(second, np.array([[False, True, False]]))[0] == pytest.approx(expected)
