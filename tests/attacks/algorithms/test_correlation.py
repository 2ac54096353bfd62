"""The correlation attack: its correlations, and the classes that it infers from them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fedser.attacks.algorithms.correlation import Correlation
from fedser.attacks.algorithms.linear import class_scores
from fedser.client.corpora.base import EMOTIONS
from tests.attacks.algorithms.networks import (
    FIRST,
    INPUTS,
    LAST,
    LAYERS,
    gradients,
    in_other_orders,
    stream,
)


def correlation(made=None, labels=None, pairs=10**6, reach=0):
    attack = Correlation(reach, pairs, 1e-3, None)
    made = gradients(20, seed=5) if made is None else made
    attack.fit(stream(made, np.arange(20) % 2 if labels is None else labels))
    return attack


def test_correlations_are_those_of_numpy():
    made = gradients()
    found = correlation().correlations(made)
    for row in range(3):
        both = np.hstack([made["dense.0.weight"][row], made["dense.0.bias"][row][:, None]])
        matrix = np.corrcoef(both.T.astype(np.float64))
        expected = matrix[np.triu_indices(INPUTS + 1, 1)]  # every pair once, row by row
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_correlations_of_the_last_layer_are_between_emotions():
    made = gradients(layers=[LAST])
    found = correlation(gradients(20, 5, [LAST])).correlations(made)
    assert found.shape == (3, 6)
    for row in range(3):
        units = np.hstack([made[f"{LAST}.weight"][row], made[f"{LAST}.bias"][row][:, None]])
        expected = np.corrcoef(units.astype(np.float64))[np.triu_indices(len(EMOTIONS), 1)]
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_hidden_layers_give_shares_of_singular_values():
    made = gradients(layers=["dense.2"])
    found = correlation(gradients(20, 5, ["dense.2"])).correlations(made)
    kept = found[:, np.abs(found).max(axis=0) > 0]
    for row in range(3):
        values = np.linalg.svd(made["dense.2.weight"][row].astype(np.float64), compute_uv=False)
        expected = values[:5] / np.linalg.norm(values[:5])
        np.testing.assert_allclose(np.sort(kept[row])[::-1], expected, rtol=1e-4)


@pytest.mark.parametrize("layers", [[layer] for layer in LAYERS] + [LAYERS], ids="+".join)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_hidden_units_does_not_matter(layers, seed):
    made = gradients(2, seed, layers)
    attack = correlation(gradients(20, 5, layers))
    found = attack.correlations(made)
    assert found.shape[1] > 1
    shuffled = in_other_orders(made, seed + 1)
    np.testing.assert_allclose(attack.correlations(shuffled), found, rtol=1e-3, atol=1e-4)


def test_the_order_of_inputs_and_of_emotions_matters():
    for layers, axis in (([FIRST], 2), ([LAST], 1)):
        made = gradients(layers=layers)
        rolled = {n: np.roll(a, 1, axis=axis) if a.ndim > axis else a for n, a in made.items()}
        attack = correlation(gradients(20, 5, layers))
        assert np.abs(attack.correlations(rolled) - attack.correlations(made)).max() > 0.1


def test_correlations_ignore_scale_and_sign():
    made = gradients()
    scaled = {name: -1000 * array for name, array in made.items()}
    attack = correlation()
    np.testing.assert_allclose(attack.correlations(scaled), attack.correlations(made), atol=1e-5)


def test_a_variable_without_spread_correlates_with_nothing():
    made = gradients()
    made["dense.0.weight"][:, :, 2] = 7.0
    found = correlation().correlations(made)
    assert np.isfinite(found).all()
    first, second = np.triu_indices(INPUTS + 1, 1)
    with_it = (first == 2) | (second == 2)
    np.testing.assert_allclose(found[:, with_it], 0, atol=1e-4)
    assert np.abs(found[:, ~with_it]).max() > 0.1


def two_columns(updates, hidden=256, stddev=2.0):
    """Return two inputs with correlation 1, without and with noise."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(hidden, 1)) * np.ones((1, 2))
    noisy = (base + rng.normal(0, stddev, (updates, hidden, 2))).astype(np.float32)
    bias = np.zeros((updates, hidden), np.float32)
    return base, {"dense.0.weight": noisy, "dense.0.bias": bias}


def test_independent_noise_leaves_covariances_unbiased():
    updates = 400
    base, made = two_columns(updates)
    attack = correlation(made, np.arange(updates) % 2)
    found = attack.correlations(made)[:, 0]  # the bias correlates with nothing
    # attenuated to var / (var + 4) but not pushed to zero, and averaging recovers it
    expected = base.var() / (base.var() + 4)
    assert found.mean() == pytest.approx(expected, abs=4 * found.std() / np.sqrt(updates))
    assert found.std() == pytest.approx((1 - expected**2) / np.sqrt(256), rel=0.2)


PLANTED = [(0, 4), (2, 7), (3, 5)]


def planted(count=90, classes=2, seed=0, hidden=64):
    """Return independent inputs, except three pairs whose covariance depends on the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    weight = rng.normal(size=(count, hidden, INPUTS))
    for strength, (i, j) in zip((1.5, 1.0, 0.6), PLANTED, strict=True):
        weight[:, :, j] += (strength * (labels - (classes - 1) / 2))[:, None] * weight[:, :, i]
    bias = rng.normal(size=(count, hidden))
    made = {"dense.0.weight": weight, "dense.0.bias": bias}
    return {name: array.astype(np.float32) for name, array in made.items()}, labels


def chosen(attack, variables):
    """Return the pairs that an attack on one layer reads."""
    (places,) = attack._differing
    return [(int(p) // variables, int(p) % variables) for p in places]


@pytest.mark.parametrize("classes", [2, 3])
def test_chosen_pairs_differ_most_between_classes(classes):
    made, labels = planted(classes=classes)
    for many in (1, 2, 3):
        attack = correlation(made, labels, pairs=many)
        assert chosen(attack, INPUTS + 1) == sorted(PLANTED[:many])
        found = attack.correlations(made)
        for column, (i, j) in enumerate(sorted(PLANTED[:many])):
            weight = made["dense.0.weight"].astype(np.float64)
            expected = [np.corrcoef(one[:, i], one[:, j])[0, 1] for one in weight]
            np.testing.assert_allclose(found[:, column], expected, atol=1e-5)


def test_neighbours_are_read_beside_the_chosen_pairs():
    made, labels = planted()
    both = correlation(made, labels, pairs=4, reach=2)
    near, apart = (correlation(made, labels, pairs=n, reach=r) for n, r in ((0, 2), (4, 0)))
    first, second = np.triu_indices(INPUTS + 1, 1)
    close = np.flatnonzero(second - first <= 2)
    everything = correlation(made, labels).correlations(made)
    found = near.correlations(made)
    np.testing.assert_array_equal(found, everything[:, close])
    together = both.correlations(made)
    np.testing.assert_array_equal(together, np.hstack([found, apart.correlations(made)]))
    # Each regression is fitted separately, and their log-odds are added.
    decisions = [attack.features(made) for attack in (near, apart)]
    np.testing.assert_allclose(both.features(made), np.hstack(decisions), atol=1e-5)
    sums = near.score(decisions[0]) + apart.score(decisions[1])
    np.testing.assert_allclose(both.score(both.features(made)), sums, atol=1e-5)


def test_classes_have_equal_weight_for_any_number_of_updates():
    made, labels = planted(120)
    few = np.flatnonzero((labels == 0) | (np.arange(120) < 16))
    one = {name: array[few] for name, array in made.items()}
    attack = correlation(one, labels[few], pairs=20)
    matrices = np.stack(
        [
            np.corrcoef(np.hstack([w, b[:, None]]).T.astype(np.float64))
            for w, b in zip(one["dense.0.weight"], one["dense.0.bias"], strict=True)
        ]
    )
    means = [matrices[labels[few] == c].mean(axis=0) for c in (0, 1)]
    apart = np.abs(means[0] - means[1])
    first, second = np.triu_indices(INPUTS + 1, 1)
    best = np.argsort(-apart[first, second])[:20]
    expected = sorted((int(first[p]), int(second[p])) for p in best)
    assert chosen(attack, INPUTS + 1) == expected


def test_all_pairs_are_read_if_there_are_fewer():
    attack = correlation(pairs=10**6)
    many = (INPUTS + 1) * INPUTS // 2
    assert attack.correlations(gradients()).shape == (3, many)
    assert len(set(chosen(attack, INPUTS + 1))) == many
    assert all(i < j for i, j in chosen(attack, INPUTS + 1))


@pytest.mark.parametrize("pairs", [1, 5, 12])
def test_pairs_are_limited_over_all_layers_together(pairs):
    layers = [FIRST, LAST]
    rest = gradients(90, 3, [LAST])
    first, labels = planted()
    attack = correlation(first | rest, labels, pairs=pairs)
    assert [len(places) for places in attack._differing][0] >= min(pairs, 3)
    assert sum(map(len, attack._differing)) == pairs
    found = attack.correlations(first | rest)
    assert found.shape == (90, pairs)
    # Planted pairs are in the first layer; the last is chosen from only after them.
    assert set(PLANTED[: min(pairs, 3)]) <= {
        (int(p) // (INPUTS + 1), int(p) % (INPUTS + 1)) for p in attack._differing[0]
    }
    assert list(first | rest) == [f"{n}.{k}" for n in layers for k in ("weight", "bias")]


@pytest.mark.parametrize("classes", [2, 3])
def test_the_mean_of_features_scores_like_mean_correlations(classes):
    made, labels = planted(classes=classes)
    attack = correlation(made, labels, pairs=4, reach=2)
    kept = attack.features(made)
    assert kept.shape == (90, 2 * (1 if classes == 2 else classes))
    many = attack.correlations(made)[:9].mean(axis=0, keepdims=True)
    expected = sum(class_scores(head.decide(many[:, part])) for part, head in attack._heads)
    found = attack.score(kept[:9].mean(axis=0, keepdims=True))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_planted_covariance_is_found_in_any_unit_order():
    made, labels = planted(200)
    attack = correlation(made, labels, pairs=5)
    victims, truth = planted(200, seed=1)
    order = np.random.default_rng(2).permutation(64)
    shuffled = {name: array[:, order] for name, array in victims.items()}
    scores = attack.score(attack.features(shuffled))
    assert roc_auc_score(truth, scores[:, 1]) > 0.99
