"""The snapshot attack: its regressions and estimates, against direct least squares."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from fedser.attacks.algorithms import snapshot
from fedser.attacks.algorithms.discriminant import CorrelationDiscriminant
from fedser.attacks.algorithms.snapshot import (
    RIDGE,
    ClientSums,
    EstimatedSums,
    FeatureMap,
    Snapshot,
    first_layer,
)
from fedser.client.features.frames import pad
from fedser.client.training.dataset import Dataset, Examples
from fedser.common.errors import UserError

D, HIDDEN = 7, 15


def shadow_examples(speakers=12, utterances=9, seed=0):
    rng = np.random.default_rng(seed)
    clients = [
        Examples(
            torch.tensor(rng.normal(0, 2, (utterances, D)), dtype=torch.float32),
            torch.tensor(rng.integers(0, 4, utterances)),
        )
        for _ in range(speakers)
    ]
    return Dataset.of(clients)


def unit_columns(sums):
    return sums / np.linalg.norm(sums, axis=-2, keepdims=True)


def every(count):
    """Return leaks of client 0: one draw of all its updates."""
    return {0: {"all": np.ones((1, count), dtype=bool)}}


def observe(evidence, sums, responses, noise, rng):
    """Add one noisy update of client 0 per response."""
    for response in responses:
        update = response @ sums + noise * rng.normal(size=(len(response), sums.shape[1]))
        evidence.add(np.array([0]), update[None].astype(np.float32), response)


def normals(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def test_sums_are_over_the_utterances_of_a_client():
    made = shadow_examples()
    feature_map = FeatureMap(made, components=3)
    cut = [np.clip(e.features.numpy(), -5, 5) for e in made]
    stacked = np.concatenate(cut)
    principal = PCA(3).fit(stacked)
    spread = np.sqrt(principal.explained_variance_ * (len(stacked) - 1) / len(stacked))
    for one, bounded, found in zip(made, cut, feature_map.sums, strict=True):
        expected = np.zeros((4 + 3, D + 1))
        scores = principal.transform(bounded) / spread
        for x, y, score in zip(one.features.numpy(), one.labels.tolist(), scores, strict=True):
            expected += np.outer(np.append(np.eye(4)[y], score), np.append(x, 1))
        np.testing.assert_allclose(found[:4], expected[:4], atol=1e-3)
        np.testing.assert_allclose(np.abs(found[4:]), np.abs(expected[4:]), atol=1e-3)
    second = np.mean([s @ s.T / (D + 1) for s in feature_map.sums.astype(np.float64)], axis=0)
    ridge = RIDGE * np.trace(second) / 7
    np.testing.assert_allclose(feature_map.prior, second + ridge * np.eye(7), rtol=1e-4, atol=1e-3)


def test_frames_are_averaged_over_each_utterance():
    rng, made = np.random.default_rng(3), shadow_examples()
    frames = [rng.normal(0, 2, (rng.integers(1, 6), D)).astype(np.float32) for _ in range(12 * 9)]
    dataset = replace(made, features=torch.from_numpy(pad(frames, 6)))
    feature_map = FeatureMap(dataset, components=3)
    cut = np.clip(np.concatenate(frames), -5, 5)
    principal = PCA(3).fit(cut)
    spread = np.sqrt(principal.explained_variance_ * (len(cut) - 1) / len(cut))
    for number, found in enumerate(feature_map.sums):
        expected = np.zeros((4 + 3, D + 1))
        for row in range(9 * number, 9 * number + 9):
            scores = principal.transform(np.clip(frames[row], -5, 5)) / spread
            emotion = np.eye(4)[int(dataset.labels[row])]
            for x, score in zip(frames[row], scores, strict=True):
                outer = np.outer(np.append(emotion, score), np.append(x, 1))
                expected += outer / len(frames[row])
        np.testing.assert_allclose(found[:4], expected[:4], atol=1e-3)
        np.testing.assert_allclose(np.abs(found[4:]), np.abs(expected[4:]), atol=1e-3)


def test_components_are_at_most_the_dimensions():
    made = shadow_examples()
    for one in made:
        one.features[:, 3] = one.features[:, 0]
    assert FeatureMap(made, components=50).sums.shape == (12, 4 + D - 1, D + 1)


def test_clipped_outliers_do_not_change_the_components():
    plain, outlying = shadow_examples(), shadow_examples()
    for made, value in ((plain, 5.0), (outlying, 500.0)):
        made.features[0, 0] = value
    found, expected = FeatureMap(outlying, 3), FeatureMap(plain, 3)
    np.testing.assert_allclose(found.sums[1:], expected.sums[1:], atol=1e-3)


@pytest.mark.parametrize("asked", [[0, 1, 2, 3, 4, 5], [11, 3]])
def test_a_planted_response_is_recovered(monkeypatch, asked):
    feature_map, planted = (
        FeatureMap(shadow_examples(), 3),
        normals(np.random.default_rng(1), HIDDEN, 7),
    )
    updates = planted @ feature_map.sums[asked]
    near = feature_map.response(np.array(asked), updates)
    assert np.linalg.norm(near - planted) < 0.1 * np.linalg.norm(planted)
    monkeypatch.setattr(snapshot, "RIDGE", 0.0)
    np.testing.assert_allclose(feature_map.response(np.array(asked), updates), planted, atol=2e-3)


def test_the_response_is_that_of_ridge_regression():
    feature_map, rng, asked = (
        FeatureMap(shadow_examples(), 3),
        np.random.default_rng(2),
        np.array([1, 4, 7, 9]),
    )
    updates = normals(rng, 4, HIDDEN, D + 1)
    sums = np.concatenate(list(feature_map.sums[asked].astype(np.float64)), axis=1)
    alpha = RIDGE * np.square(sums).sum() / 7
    expected = Ridge(alpha=alpha, fit_intercept=False).fit(
        sums.T, np.concatenate(list(updates), axis=1).T
    )
    np.testing.assert_allclose(
        feature_map.response(asked, updates), expected.coef_, rtol=1e-2, atol=1e-4
    )


def by_least_squares(updates, responses, prior):
    """Solve all equations on the sums, weighted by accuracy, with the prior as more equations."""
    left, right = [np.linalg.inv(np.linalg.cholesky(prior))], [np.zeros((len(prior), D + 1))]
    for update, response in zip(updates, responses, strict=True):
        ridge = np.sqrt(RIDGE * np.square(response).sum() / len(prior))
        known = np.concatenate([response, ridge * np.eye(len(prior))])
        sent = np.concatenate([update, np.zeros((len(prior), D + 1))])
        fitted = np.linalg.lstsq(known, sent, rcond=None)[0]
        stddev = np.sqrt(np.square(sent - known @ fitted).sum() / update.size)
        left.append(known / stddev)
        right.append(sent / stddev)
    return np.linalg.lstsq(np.concatenate(left), np.concatenate(right), rcond=None)[0]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 6), noise=st.floats(0.1, 30.0))
def test_estimates_are_posterior_means(seed, count, noise):
    rng, side = np.random.default_rng(seed), 5
    root = rng.normal(size=(side, side)) + 2 * np.eye(side)
    prior = root @ root.T + 0.1 * np.eye(side)
    responses = [normals(rng, HIDDEN, side) * rng.uniform(0.2, 3) for _ in range(count)]
    updates = {c: normals(rng, count, HIDDEN, D + 1) * np.float32(noise) for c in (2, 4)}
    evidence = ClientSums.of(5)
    for row, response in enumerate(responses):
        sent = np.stack([updates[2][row], updates[4][row]])
        evidence.add(np.array([2, 4]), sent, response)
    masks = rng.random((3, count)) < 0.5
    masks[:, rng.integers(count)] = True
    found = evidence.estimates({c: {"some": masks} for c in (2, 4)}, "some", prior)
    assert found.client.tolist() == [2, 2, 2, 4, 4, 4] and found.draw.tolist() == [0, 1, 2] * 2
    for client, draw, estimate in zip(found.client, found.draw, found.columns, strict=True):
        rows = np.flatnonzero(masks[draw])
        expected = by_least_squares(
            updates[int(client)][rows].astype(np.float64),
            [responses[row].astype(np.float64) for row in rows],
            prior,
        )
        np.testing.assert_allclose(estimate, unit_columns(expected), atol=2e-3)


def test_estimates_approach_the_sums_with_less_noise():
    rng = np.random.default_rng(3)
    sums, responses, errors = normals(rng, 5, D + 1), [normals(rng, HIDDEN, 5)] * 3, []
    for noise in (3.0, 0.3, 0.01):
        evidence = ClientSums.of(1)
        observe(evidence, sums, responses, noise, rng)
        (estimate,) = evidence.estimates(every(3), "all", np.eye(5)).columns
        errors.append(np.abs(estimate - unit_columns(sums)).max())
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 0.01


def test_estimates_approach_the_sums_with_more_updates():
    rng = np.random.default_rng(4)
    sums, errors = normals(rng, 5, D + 1), []
    for count in (1, 10, 100, 1000):
        evidence = ClientSums.of(1)
        observe(evidence, sums, [normals(rng, HIDDEN, 5) for _ in range(count)], 8.0, rng)
        (estimate,) = evidence.estimates(every(count), "all", np.eye(5)).columns
        errors.append(np.sqrt(np.square(estimate - unit_columns(sums)).mean()))
    assert all(np.diff(errors) < 0)
    # The second and the last differ by the root of a hundred, up to random error.
    assert errors[1] / errors[3] == pytest.approx(10, rel=0.4)
    assert errors[3] < 0.05


def test_a_noisy_update_has_less_weight():
    rng = np.random.default_rng(5)
    sums, response = normals(rng, 5, D + 1), normals(rng, HIDDEN, 5)
    errors = []
    for noises in ([0.1], [0.1, 30.0]):
        draws, evidence = np.random.default_rng(6), ClientSums.of(1)
        for noise in noises:
            observe(evidence, sums, [response], noise, draws)
        (estimate,) = evidence.estimates(every(len(noises)), "all", 100 * np.eye(5)).columns
        errors.append(np.abs(estimate - unit_columns(sums)).max())
    assert errors[1] == pytest.approx(errors[0], rel=0.1)


def test_a_client_without_draws_has_no_estimates():
    rng, evidence = np.random.default_rng(0), ClientSums.of(1)
    observe(evidence, normals(rng, 5, D + 1), [normals(rng, HIDDEN, 5)], 1.0, rng)
    nothing = {0: {"1": np.zeros((0, 1), dtype=bool)}}
    found = evidence.estimates(nothing, "1", np.eye(5))
    assert found.columns.shape == (0, 5, D + 1) and len(found.client) == len(found.draw) == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_hidden_units_does_not_matter(seed):
    """Each round's model may have an order of its own, which all its updates share."""
    rng, feature_map = np.random.default_rng(seed), FeatureMap(shadow_examples(), 2)
    asked, found = np.array([0, 3, 5]), []
    rounds = [(normals(rng, 3, HIDDEN, D + 1), normals(rng, HIDDEN, D + 1)) for _ in range(3)]
    for shuffle in (False, True):
        evidence = ClientSums.of(1)
        for own, victim in rounds:
            order = rng.permutation(HIDDEN) if shuffle else np.arange(HIDDEN)
            response = feature_map.response(asked, own[:, order])
            evidence.add(np.array([0]), victim[None, order], response)
        found.append(evidence.estimates(every(3), "all", feature_map.prior).columns)
    np.testing.assert_allclose(found[0], found[1], atol=5e-3)


def test_a_second_order_difference_is_found_under_noise():
    """The mean of both classes is zero; only the correlation of the columns differs."""
    rng, clients, side, rounds = np.random.default_rng(7), 200, 10, 20
    labels = np.arange(clients) % 2
    sums = rng.normal(size=(clients, 8, side))
    sums[:, :, 1::2] += 1.5 * np.where(labels, 1, -1)[:, None, None] * sums[:, :, ::2]
    evidence = ClientSums.of(clients)
    for _ in range(rounds):
        response = normals(rng, 30, 8)
        sent = response @ sums + 30.0 * rng.normal(size=(clients, 30, side))
        evidence.add(np.arange(clients), sent.astype(np.float32), response)
    first = {"1": np.eye(1, rounds, dtype=bool), "20": np.ones((1, rounds), dtype=bool)}
    auc = {}
    for leaked in first:
        prior = np.eye(8) * np.square(sums).mean()
        found = evidence.estimates(dict.fromkeys(range(clients), first), leaked, prior)
        train, test = slice(0, 120), slice(120, None)
        fitted = CorrelationDiscriminant(
            found.columns[train], labels[train], np.zeros(120, dtype=np.int64), 2
        )
        scores = fitted.score(found.columns[test])
        auc[leaked] = roc_auc_score(labels[test], scores[:, 1] - scores[:, 0])
    assert 0.35 < auc["1"] < 0.65
    assert auc["20"] > 0.8


def test_the_bias_is_the_last_column_of_the_first_layer():
    rng = np.random.default_rng(0)
    weight, bias = normals(rng, 3, HIDDEN, D), normals(rng, 3, HIDDEN)
    found = first_layer({"dense.0.weight": weight, "dense.0.bias": bias, "dense.1.weight": weight})
    np.testing.assert_array_equal(found[:, :, :D], weight)
    np.testing.assert_array_equal(found[:, :, D], bias)
    with pytest.raises(UserError, match=r"reads the first layer: add it to adversary\.layers"):
        first_layer({"dense.1.weight": weight})


def test_tables_name_the_client_and_the_draw():
    found = EstimatedSums("3", np.array([4, 4, 9]), np.array([0, 1, 0]), np.zeros((3, 2, 2)))
    rows = found.table(np.array([[0.0, 1.0]]), np.array([False, True, False]))
    assert rows.to_dict("records") == [
        {"client": 4, "leaked": "3", "draw": 1, "score_0": 0.0, "score_1": 1.0}
    ]


@pytest.mark.parametrize("grouped", [True, False])
def test_evidence_is_scored_as_its_parts_are(grouped):
    rng, made = np.random.default_rng(8), shadow_examples()
    labels, groups = np.arange(12) % 2, np.arange(12) // 2 % 3 if grouped else np.zeros(0, int)
    evidence = Snapshot(components=2, asked=12, draws=1).start(made, labels, groups, 4)
    feature_map = FeatureMap(made, 2)
    own, victims, shadow = ClientSums.of(12), ClientSums.of(4), np.arange(12)
    for sent_by in ([0, 2], [2, 3]):
        layers = [
            {"dense.0.weight": normals(rng, n, HIDDEN, D), "dense.0.bias": normals(rng, n, HIDDEN)}
            for n in (2, 12, 12)
        ]
        updates, plain, sent = layers
        evidence.add(np.array(sent_by), updates, shadow, plain, sent)
        response = feature_map.response(shadow, first_layer(plain))
        own.add(shadow, first_layer(sent), response)
        victims.add(np.array(sent_by), first_layer(updates), response)
    of_shadow = {client: {"all": np.ones((1, 2), dtype=bool)} for client in range(12)}
    of_victims = {2: {"all": np.ones((1, 2), dtype=bool)}, 3: {"all": np.ones((1, 1), dtype=bool)}}
    known = own.estimates(of_shadow, "all", feature_map.prior)
    discriminant = CorrelationDiscriminant(
        known.columns, labels, groups if grouped else np.zeros(12, int), 2
    )
    tables = evidence.score("all", of_shadow, of_victims)
    unknown = victims.estimates(of_victims, "all", feature_map.prior)
    scores = tables[1][["score_0", "score_1"]]
    np.testing.assert_array_equal(scores, discriminant.score(unknown.columns))
    assert tables[1]["client"].tolist() == [2, 3]
    assert len(tables[0]) == (12 if grouped else 0)
    for group in np.unique(groups):
        rows = groups == group
        table = tables[0][tables[0]["group"] == group]
        assert table["client"].tolist() == np.flatnonzero(rows).tolist()
        assert table["label"].tolist() == labels[rows].tolist()
        expected = discriminant.score(known.columns[rows], group)
        np.testing.assert_array_equal(table[["score_0", "score_1"]], expected)
