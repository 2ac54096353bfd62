"""Which updates leak, and three ways to combine them, each against a loop."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from fedser.attacks.adversary.leaked_updates import choose_leaks, combine_scores, score_leaks
from fedser.attacks.adversary.tap import SeenUpdates
from fedser.attacks.algorithms.base import ShadowUpdates
from fedser.attacks.algorithms.statistics import Statistics
from fedser.conf.schema import AdversaryConfig

SELECTIONS = ("random", "earliest", "latest")


def config(selection="random", leaked=(1, 3, "all"), draws=4):
    return AdversaryConfig(selection=selection, leaked_updates=list(leaked), draws=draws)


@given(
    many=st.integers(1, 12),
    leaked=st.lists(st.integers(1, 15) | st.just("all"), min_size=1, unique=True),
    selection=st.sampled_from(SELECTIONS),
    draws=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_every_draw_has_the_number_that_leaks_or_all(many, leaked, selection, draws, seed):
    rounds = np.random.default_rng(seed).permutation(50)[:many]  # in any order
    found = choose_leaks(rounds, config(selection, leaked, draws), seed, "f", 3)
    assert list(found) == [str(count) for count in leaked]
    for count in leaked:
        mask = found[str(count)]
        size = many if count == "all" else min(count, many)
        once = count == "all" or selection != "random"
        assert mask.dtype == bool and mask.shape == (1 if once else draws, many)
        assert (mask.sum(axis=1) == size).all()
        if selection != "random":
            kept = sorted(rounds)[:size] if selection == "earliest" else sorted(rounds)[-size:]
            assert sorted(rounds[mask[0]]) == kept


def test_each_number_of_leaked_updates_has_its_own_stream():
    rounds = np.arange(1, 31)
    first = choose_leaks(rounds, config(draws=6), 0, "private-fold0", 3)
    again = choose_leaks(rounds, config(leaked=(3, 20), draws=6), 0, "private-fold0", 3)
    np.testing.assert_array_equal(first["3"], again["3"])  # for any other numbers
    assert len(np.unique(first["3"], axis=0)) > 1
    for seed, name in ((1, ("private-fold0", 3)), (0, ("private-fold0", 4)), (0, ("shadow", 3))):
        other = choose_leaks(rounds, config(draws=6), seed, *name)
        assert not np.array_equal(other["3"], first["3"])
    assert (again["3"] & ~again["20"]).any()  # the 20 do not contain the 3


def test_every_update_is_equally_likely_to_leak():
    draws = 4000
    (mask,) = choose_leaks(np.arange(8), config(leaked=[3], draws=draws), 0, "f").values()
    low, high = binom.ppf([1e-5, 1 - 1e-5], draws, 3 / 8)
    assert ((low <= mask.sum(axis=0)) & (mask.sum(axis=0) <= high)).all()
    together = (mask[:, 0] & mask[:, 1]).sum()
    low, high = binom.ppf([1e-5, 1 - 1e-5], draws, 3 / 8 * 2 / 7)
    assert low <= together <= high


@dataclass
class Bent:
    """A nonlinear attack: its features are cubes of sums, and its scores logarithms."""

    name = "bent"
    max_examples = None

    def features(self, gradients):
        sums = [array.reshape(len(array), -1).sum(axis=1) for array in gradients.values()]
        return np.stack(sums, axis=1) ** 3

    def score(self, features):
        return np.stack([features[:, 0], np.log1p(features[:, 1] ** 2), -np.abs(features[:, 0])], 1)


def seen(count=7, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {
        "dense.0.weight": rng.normal(size=(count, 5, 4)),
        "dense.0.bias": rng.normal(size=(count, 5)),
    }
    return SeenUpdates(11, np.arange(count), {n: a.astype(np.float32) for n, a in arrays.items()})


def by_hand(attack, one, mask, combination):
    """The scores of one draw."""
    rows = np.flatnonzero(mask)
    each = [attack.features({n: a[[row]] for n, a in one.gradients.items()}) for row in rows]
    if combination == "log_odds":
        return np.sum([attack.score(found)[0] for found in each], axis=0)
    if combination == "statistics":
        return attack.score(np.mean(each, axis=0))[0]
    means = {n: np.mean([a[row] for row in rows], axis=0) for n, a in one.gradients.items()}
    return attack.score(attack.features({n: a[None] for n, a in means.items()}))[0]


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("combination", ["updates", "statistics", "log_odds"])
def test_combinations_agree_with_a_loop(combination, selection):
    one = seen()
    leaks = choose_leaks(one.round, config(selection, (1, 3, "all", 50), draws=3), 0, "f")
    found = score_leaks(Bent(), one, leaks, combination)
    masks = [(leaked, draw, row) for leaked, m in leaks.items() for draw, row in enumerate(m)]
    assert found["leaked"].tolist() == [leaked for leaked, _, _ in masks]
    assert found["draw"].tolist() == [draw for _, draw, _ in masks]
    assert set(found["client"]) == {11}
    scores = found[["score_0", "score_1", "score_2"]].to_numpy()
    expected = np.array([by_hand(Bent(), one, mask, combination) for _, _, mask in masks])
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


def test_all_combinations_of_one_update_are_equal():
    one = seen()
    leaks = choose_leaks(one.round, config(leaked=[1], draws=7), 0, "f")
    found = [score_leaks(Bent(), one, leaks, c) for c in ("updates", "statistics", "log_odds")]
    for other in found[1:]:
        np.testing.assert_allclose(
            other.filter(like="score"), found[0].filter(like="score"), rtol=1e-5, atol=1e-5
        )


def test_a_linear_attacks_score_of_a_mean_is_the_mean_score():
    attack, one = Statistics(0.1, None), seen()
    examples = seen(60, seed=1).gradients
    labels = (examples["dense.0.weight"][:, :, 0].var(axis=1) > 1).astype(int)
    attack.fit(lambda: iter([ShadowUpdates(examples, labels)]))
    leaks = choose_leaks(one.round, config(leaked=(1, 3, "all"), draws=5), 0, "f")
    found = score_leaks(attack, one, leaks, "statistics")
    single = attack.score(attack.features(one.gradients))
    combined = combine_scores(11, single, leaks, "statistics")
    odds = [frame["score_1"] - frame["score_0"] for frame in (found, combined)]
    np.testing.assert_allclose(odds[0], odds[1], atol=1e-4)
    assert np.ptp(odds[0]) > 0.1
    many = np.concatenate([m.sum(axis=1) for m in leaks.values()])
    summed = score_leaks(attack, one, leaks, "log_odds")
    np.testing.assert_allclose(summed["score_1"] - summed["score_0"], odds[0] * many, atol=1e-3)


@pytest.mark.parametrize("combination", ["updates", "statistics", "log_odds"])
def test_scores_of_single_updates_are_summed_or_averaged(combination):
    scores = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    leaks = choose_leaks(np.arange(5), config(leaked=(2, "all"), draws=3), 0, "f")
    found = combine_scores(4, scores, leaks, combination).filter(like="score").to_numpy()
    join = np.sum if combination == "log_odds" else np.mean
    expected = [join(scores[mask], axis=0) for masks in leaks.values() for mask in masks]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
