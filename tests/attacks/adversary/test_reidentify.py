"""Re-identification: two disjoint sides of updates, and the similarity of their scores."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine

from fedser.attacks.adversary.reidentify import choose_sides, score_pairs
from fedser.attacks.evaluation.reidentification import evaluate_reidentification
from fedser.conf.schema import AdversaryConfig
from tests.attacks.evaluation.test_attribute import write_truth


def adversary(leaked, selection="random", draws=4):
    return AdversaryConfig(
        attribute="speaker", leaked_updates=leaked, selection=selection, draws=draws
    )


ROUNDS = st.lists(st.integers(0, 500), unique=True, max_size=30).map(np.array)


@settings(max_examples=60, deadline=None)
@given(
    rounds=ROUNDS,
    selection=st.sampled_from(["random", "earliest", "latest"]),
    seed=st.integers(0, 9),
)
def test_sides_are_disjoint_and_of_equal_size(rounds, selection, seed):
    config, half = adversary([1, 3, 10, "all"], selection), len(rounds) // 2
    found = choose_sides(rounds, config, seed, "made", 3)
    assert list(found) == ["1", "3", "10", "all"]
    for leaked, sides in found.items():
        size = half if leaked == "all" else min(int(leaked), half)
        assert sides.shape == ((8 if half else 0), len(rounds)) and sides.dtype == bool
        assert (sides.sum(axis=1) == size).all()
        assert not (sides[::2] & sides[1::2]).any()
        both = sides[::2] | sides[1::2]
        order = np.sort(rounds)
        kept = {"earliest": order[: 2 * size], "latest": order[len(order) - 2 * size :]}
        if selection in kept:
            for one in both:
                assert set(rounds[one]) == set(kept[selection])
    again = choose_sides(rounds, config, seed, "made", 3)
    assert all(np.array_equal(sides, again[leaked]) for leaked, sides in found.items())


def test_all_updates_are_split_into_halves():
    even, odd = (choose_sides(np.arange(n), adversary(["all"]), 0)["all"] for n in (10, 11))
    assert ((even[::2] | even[1::2]).sum(axis=1) == 10).all()
    assert ((odd[::2] | odd[1::2]).sum(axis=1) == 10).all()


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_updates_have_no_sides(count):
    found = choose_sides(np.arange(count), adversary([1, "all"]), 0)
    assert {leaked: sides.shape for leaked, sides in found.items()} == {
        "1": (0, count),
        "all": (0, count),
    }


def test_sides_are_drawn_evenly_and_per_client():
    config, rounds = adversary([2], draws=2000), np.arange(8)
    sides = choose_sides(rounds, config, 0, "made", 1)["2"]
    # 4000 sides of 2 in 8: each update in 1000, with a standard deviation of about 27.
    np.testing.assert_allclose(sides.sum(axis=0), 1000, atol=5 * 27)
    other = choose_sides(rounds, config, 0, "made", 2)["2"]
    assert not np.array_equal(sides, other)


def made_scores(clients, draws=2, known=5, seed=0, federation="private-fold0", leaked="1"):
    """Random scores of both sides of each draw, rows in random order."""
    rng = np.random.default_rng(seed)
    rows = [(federation, c, leaked, draw) for c in clients for draw in range(2 * draws)]
    frame = pd.DataFrame(rows, columns=["federation", "client", "leaked", "draw"])
    scores = rng.normal(3, 1, (len(frame), known))
    made = frame.assign(**{f"score_{c}": scores[:, c] for c in range(known)})
    return made.sample(frac=1.0, random_state=seed)


def test_a_pairs_score_is_the_cosine_of_centred_scores():
    scores = pd.concat(
        [
            made_scores([2, 5, 9]),
            made_scores([0, 1], federation="private-fold1", seed=1),
            made_scores([2, 5, 9], leaked="all", seed=2),
        ]
    )
    pairs = score_pairs(scores)
    columns = [f"score_{c}" for c in range(5)]
    of = scores.set_index(["federation", "leaked", "draw", "client"])[columns].sort_index()
    expected = {}
    for federation, leaked, side, client in of.index:
        if side % 2 == 0:
            for other in of.loc[(federation, leaked, side + 1)].index:
                one = of.loc[(federation, leaked, side, client)].to_numpy()
                two = of.loc[(federation, leaked, side + 1, other)].to_numpy()
                alike = 1 - cosine(one - one.mean(), two - two.mean())
                expected[federation, leaked, side // 2, client, other] = alike
    assert list(pairs) == ["federation", "leaked", "draw", "client_a", "client_b", "score"]
    found = {tuple(row[:5]): row[5] for row in pairs.itertuples(index=False)}
    assert len(found) == len(pairs) == 2 * (9 + 4 + 9)
    assert found == pytest.approx(expected)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_shift_and_scale_of_a_row_change_nothing(seed):
    rng, scores = np.random.default_rng(seed), made_scores([1, 2, 3])
    moved = scores.copy()
    columns = list(scores.filter(like="score_"))
    scale, shift = rng.uniform(0.1, 10, (len(scores), 1)), rng.normal(0, 9, (len(scores), 1))
    moved[columns] = scale * scores[columns].to_numpy() + shift
    pd.testing.assert_frame_equal(score_pairs(moved), score_pairs(scores), rtol=1e-6)


def test_constant_scores_give_similarity_zero():
    scores = made_scores([1, 2]).assign(**{f"score_{c}": 0.5 for c in range(5)})
    assert (score_pairs(scores)["score"] == 0).all()


def study(folder, effect, speakers=12, shards=2, known=20, seed=0):
    """Return pair scores and truth; each speaker resembles some shadow speakers more."""
    rng = np.random.default_rng(seed)
    scores = made_scores(range(speakers * shards), draws=3, known=known, seed=seed)
    resembles = rng.normal(size=(speakers, known))
    columns = list(scores.filter(like="score_"))
    scores[columns] += effect * resembles[scores["client"] // shards]
    truth = [("private-fold0", 0, c, f"s{c // shards}", "female") for c in range(speakers * shards)]
    return score_pairs(scores), write_truth(folder, truth)


@pytest.mark.parametrize("across", ["rounds", "shards"])
def test_a_planted_speaker_is_recognised(tmp_path, across):
    pairs, truth = study(tmp_path, effect=5.0)
    (entry,) = evaluate_reidentification(pairs, truth, across, 20, seed=0)
    assert entry["eer"] < 0.02 and entry["auc"] > 0.98


@pytest.mark.parametrize("across", ["rounds", "shards"])
def test_without_an_effect_no_speaker_is_recognised(tmp_path, across):
    pairs, truth = study(tmp_path, effect=0.0)
    (entry,) = evaluate_reidentification(pairs, truth, across, 20, seed=0)
    # 72 positives: a standard error of 0.06
    assert entry["eer"] == pytest.approx(0.5, abs=0.15)
    assert entry["auc"] == pytest.approx(0.5, abs=0.15)
