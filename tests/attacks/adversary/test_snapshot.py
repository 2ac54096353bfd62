"""The snapshot attack: its regressions and estimates against least squares by the book."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from fedser.attacks.adversary import snapshot
from fedser.attacks.adversary.own_speakers import ShadowClients
from fedser.attacks.adversary.snapshot import (
    RIDGE,
    ClientSums,
    CorrelationDiscriminant,
    EstimatedSums,
    FeatureMap,
    first_layer,
)
from fedser.client.features.frames import pad
from fedser.client.training.dataset import Dataset, Examples
from fedser.common.errors import UserError

D, HIDDEN = 7, 15


def cast(speakers=12, utterances=9, seed=0):
    rng = np.random.default_rng(seed)
    examples = [
        Examples(
            torch.tensor(rng.normal(0, 2, (utterances, D)), dtype=torch.float32),
            torch.tensor(rng.integers(0, 4, utterances)),
        )
        for _ in range(speakers)
    ]
    return ShadowClients(Dataset.of(examples), np.arange(speakers) % 2, np.arange(speakers))


def unit_columns(sums):
    return sums / np.linalg.norm(sums, axis=-2, keepdims=True)


def every(count):
    """Leaks of client 0: all of its updates at once."""
    return {0: {"all": np.ones((1, count), dtype=bool)}}


def observe(evidence, sums, responses, noise, rng):
    """Let client 0 send an update a response, noised."""
    for server_round, response in enumerate(responses):
        update = response @ sums + noise * rng.normal(size=(len(response), sums.shape[1]))
        evidence.add(server_round, np.array([0]), update[None].astype(np.float32), response)


def normals(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def test_sums_are_over_a_speakers_utterances():
    made = cast()
    lens = FeatureMap(made, components=3)
    cut = [np.clip(e.features.numpy(), -5, 5) for e in made.examples]
    stacked = np.concatenate(cut)
    principal = PCA(3).fit(stacked)
    spread = np.sqrt(principal.explained_variance_ * (len(stacked) - 1) / len(stacked))
    for one, bounded, found in zip(made.examples, cut, lens.sums, strict=True):
        expected = np.zeros((4 + 3, D + 1))
        scores = principal.transform(bounded) / spread
        for x, y, score in zip(one.features.numpy(), one.labels.tolist(), scores, strict=True):
            expected += np.outer(np.append(np.eye(4)[y], score), np.append(x, 1))
        np.testing.assert_allclose(found[:4], expected[:4], atol=1e-3)
        np.testing.assert_allclose(np.abs(found[4:]), np.abs(expected[4:]), atol=1e-3)
    second = np.mean([s @ s.T / (D + 1) for s in lens.sums.astype(np.float64)], axis=0)
    ridge = RIDGE * np.trace(second) / 7
    np.testing.assert_allclose(lens.prior, second + ridge * np.eye(7), rtol=1e-4, atol=1e-3)


def test_the_sums_of_frames_are_means_over_each_utterance():
    rng, made = np.random.default_rng(3), cast()
    frames = [rng.normal(0, 2, (rng.integers(1, 6), D)).astype(np.float32) for _ in range(12 * 9)]
    dataset = replace(made.examples, features=torch.from_numpy(pad(frames, 6)))
    lens = FeatureMap(replace(made, examples=dataset), components=3)
    cut = np.clip(np.concatenate(frames), -5, 5)
    principal = PCA(3).fit(cut)
    spread = np.sqrt(principal.explained_variance_ * (len(cut) - 1) / len(cut))
    for number, found in enumerate(lens.sums):
        expected = np.zeros((4 + 3, D + 1))
        for row in range(9 * number, 9 * number + 9):
            scores = principal.transform(np.clip(frames[row], -5, 5)) / spread
            emotion = np.eye(4)[int(dataset.labels[row])]
            for x, score in zip(frames[row], scores, strict=True):
                outer = np.outer(np.append(emotion, score), np.append(x, 1))
                expected += outer / len(frames[row])
        np.testing.assert_allclose(found[:4], expected[:4], atol=1e-3)
        np.testing.assert_allclose(np.abs(found[4:]), np.abs(expected[4:]), atol=1e-3)


def test_there_are_no_more_components_than_dimensions():
    made = cast()
    for one in made.examples:
        one.features[:, 3] = one.features[:, 0]
    assert FeatureMap(made, components=50).sums.shape == (12, 4 + D - 1, D + 1)


def test_features_beyond_the_cut_do_not_turn_the_components():
    plain, wild = cast(), cast()
    for made, value in ((plain, 5.0), (wild, 500.0)):
        made.examples.features[0, 0] = value
    found, expected = FeatureMap(wild, 3), FeatureMap(plain, 3)
    np.testing.assert_allclose(found.sums[1:], expected.sums[1:], atol=1e-3)


@pytest.mark.parametrize("asked", [[0, 1, 2, 3, 4, 5], [11, 3]])
def test_a_planted_response_is_recovered(monkeypatch, asked):
    lens, planted = FeatureMap(cast(), 3), normals(np.random.default_rng(1), HIDDEN, 7)
    updates = planted @ lens.sums[asked]
    near = lens.response(np.array(asked), updates)
    assert np.linalg.norm(near - planted) < 0.1 * np.linalg.norm(planted)
    monkeypatch.setattr(snapshot, "RIDGE", 0.0)
    np.testing.assert_allclose(lens.response(np.array(asked), updates), planted, atol=2e-3)


def test_the_response_is_that_of_ridge_regression():
    lens, rng, asked = FeatureMap(cast(), 3), np.random.default_rng(2), np.array([1, 4, 7, 9])
    updates = normals(rng, 4, HIDDEN, D + 1)
    sums = np.concatenate(list(lens.sums[asked].astype(np.float64)), axis=1)
    alpha = RIDGE * np.square(sums).sum() / 7
    expected = Ridge(alpha=alpha, fit_intercept=False).fit(
        sums.T, np.concatenate(list(updates), axis=1).T
    )
    np.testing.assert_allclose(lens.response(asked, updates), expected.coef_, rtol=1e-2, atol=1e-4)


def by_least_squares(updates, responses, prior):
    """Stack all equations on the sums, each by its accuracy, and the prior as more of them."""
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
    for server_round, response in enumerate(responses):
        sent = np.stack([updates[2][server_round], updates[4][server_round]])
        evidence.add(server_round, np.array([2, 4]), sent, response)
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


def test_estimates_tend_to_the_true_sums_as_noise_shrinks():
    rng = np.random.default_rng(3)
    sums, responses, errors = normals(rng, 5, D + 1), [normals(rng, HIDDEN, 5)] * 3, []
    for noise in (3.0, 0.3, 0.01):
        evidence = ClientSums.of(1)
        observe(evidence, sums, responses, noise, rng)
        (estimate,) = evidence.estimates(every(3), "all", np.eye(5)).columns
        errors.append(np.abs(estimate - unit_columns(sums)).max())
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert errors[2] < 0.01


def test_estimates_tend_to_the_true_sums_as_updates_grow_in_number():
    rng = np.random.default_rng(4)
    sums, errors = normals(rng, 5, D + 1), []
    for count in (1, 10, 100, 1000):
        evidence = ClientSums.of(1)
        observe(evidence, sums, [normals(rng, HIDDEN, 5) for _ in range(count)], 8.0, rng)
        (estimate,) = evidence.estimates(every(count), "all", np.eye(5)).columns
        errors.append(np.sqrt(np.square(estimate - unit_columns(sums)).mean()))
    assert all(np.diff(errors) < 0)
    # A root of a hundred between the second and the last, give or take the draws.
    assert errors[1] / errors[3] == pytest.approx(10, rel=0.4)
    assert errors[3] < 0.05


def test_a_noisier_update_counts_for_less():
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


def test_a_client_that_drew_nothing_has_no_estimates():
    rng, evidence = np.random.default_rng(0), ClientSums.of(1)
    observe(evidence, normals(rng, 5, D + 1), [normals(rng, HIDDEN, 5)], 1.0, rng)
    nothing = {0: {"1": np.zeros((0, 1), dtype=bool)}}
    found = evidence.estimates(nothing, "1", np.eye(5))
    assert found.columns.shape == (0, 5, D + 1) and len(found.client) == len(found.draw) == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_hidden_units_does_not_matter(seed):
    """Each round's model may have its own, as long as all who start there share it."""
    rng, lens = np.random.default_rng(seed), FeatureMap(cast(), 2)
    asked, found = np.array([0, 3, 5]), []
    rounds = [(normals(rng, 3, HIDDEN, D + 1), normals(rng, HIDDEN, D + 1)) for _ in range(3)]
    for shuffle in (False, True):
        evidence = ClientSums.of(1)
        for server_round, (own, victim) in enumerate(rounds):
            order = rng.permutation(HIDDEN) if shuffle else np.arange(HIDDEN)
            response = lens.response(asked, own[:, order])
            evidence.add(server_round, np.array([0]), victim[None, order], response)
        found.append(evidence.estimates(every(3), "all", lens.prior).columns)
    np.testing.assert_allclose(found[0], found[1], atol=5e-3)


def made_estimates(count, side=6, rows=5, seed=0):
    """Random sums whose columns are alike in a way of their class, and labels and groups."""
    rng = np.random.default_rng(seed)
    labels, groups = np.arange(count) % 3, np.arange(count) // 3 % 4
    mixing = np.eye(side) + 0.5 * rng.normal(size=(3, side, side))
    columns = unit_columns(rng.normal(size=(count, rows, side)) @ mixing[labels])
    where = np.arange(count)
    return EstimatedSums("1", where, where, columns.astype(np.float32)), labels, groups


def slow_scores(known, labels, judged, classes=3):
    """Diagonal discriminant on the cosines of all columns but each with itself."""

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
    for sums in judged:
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
def test_resemblance_is_a_diagonal_discriminant_on_cosines(count, side, rows):
    known, labels, groups = made_estimates(count, side, rows)
    judged, _, _ = made_estimates(20, side, rows, seed=1)
    found = CorrelationDiscriminant(known, labels, groups, 3).score(judged.columns)
    expected = slow_scores(known.columns, labels, judged.columns)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_column_like_another_in_everyone_tells_nothing():
    """Rounding must not make a little variance of none: it would outweigh all the rest."""
    known, labels, groups = made_estimates(60, rows=20)
    judged, _, _ = made_estimates(20, rows=20, seed=1)
    twice, seen = (np.concatenate([e.columns, e.columns], axis=2) for e in (known, judged))
    doubled = EstimatedSums("1", known.client, known.draw, twice)
    found = CorrelationDiscriminant(doubled, labels, groups, 3).score(seen)
    expected = slow_scores(known.columns, labels, judged.columns)  # four times over, a quarter each
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("group", range(4))
def test_leaving_out_a_group_is_fitting_without_it(group):
    known, labels, groups = made_estimates(120)
    judged, _, _ = made_estimates(20, seed=1)
    found = CorrelationDiscriminant(known, labels, groups, 3).score(judged.columns, group)
    kept = groups != group
    rest = EstimatedSums("1", known.client[kept], known.draw[kept], known.columns[kept])
    expected = CorrelationDiscriminant(rest, labels[kept], groups[kept], 3).score(judged.columns)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    everyone = CorrelationDiscriminant(known, labels, groups, 3).score(judged.columns)
    assert np.abs(found - everyone).max() > 1e-3


def test_a_class_of_whom_nobody_was_asked_has_a_score():
    known, labels, groups = made_estimates(60)
    scores = CorrelationDiscriminant(known, labels, groups, 4).score(known.columns)
    assert scores.shape == (60, 4) and np.isfinite(scores).all()


def test_a_second_order_difference_is_found_under_noise():
    """The sums of both classes have the same mean, zero: only how columns go together differs."""
    rng, clients, side, rounds = np.random.default_rng(7), 200, 10, 20
    labels = np.arange(clients) % 2
    sums = rng.normal(size=(clients, 8, side))
    sums[:, :, 1::2] += 1.5 * np.where(labels, 1, -1)[:, None, None] * sums[:, :, ::2]
    evidence = ClientSums.of(clients)
    for server_round in range(rounds):
        response = normals(rng, 30, 8)
        sent = response @ sums + 30.0 * rng.normal(size=(clients, 30, side))
        evidence.add(server_round, np.arange(clients), sent.astype(np.float32), response)
    first = {"1": np.eye(1, rounds, dtype=bool), "20": np.ones((1, rounds), dtype=bool)}
    auc = {}
    for leaked in first:
        prior = np.eye(8) * np.square(sums).mean()
        found = evidence.estimates(dict.fromkeys(range(clients), first), leaked, prior)
        train, test = slice(0, 120), slice(120, None)
        known = EstimatedSums(leaked, found.client[train], found.draw[train], found.columns[train])
        fitted = CorrelationDiscriminant(known, labels[train], np.zeros(120, dtype=np.int64), 2)
        scores = fitted.score(found.columns[test])
        auc[leaked] = roc_auc_score(labels[test], scores[:, 1] - scores[:, 0])
    assert 0.35 < auc["1"] < 0.65
    assert auc["20"] > 0.8


def test_the_bias_is_a_column_more_of_the_first_layer():
    rng = np.random.default_rng(0)
    weight, bias = normals(rng, 3, HIDDEN, D), normals(rng, 3, HIDDEN)
    found = first_layer({"dense.0.weight": weight, "dense.0.bias": bias, "dense.1.weight": weight})
    np.testing.assert_array_equal(found[:, :, :D], weight)
    np.testing.assert_array_equal(found[:, :, D], bias)
    with pytest.raises(UserError, match=r"reads the first layer: add it to adversary\.layers"):
        first_layer({"dense.1.weight": weight})


def test_scores_are_told_of_their_client_and_draw():
    found = EstimatedSums("3", np.array([4, 4, 9]), np.array([0, 1, 0]), np.zeros((3, 2, 2)))
    rows = found.rows(np.array([[0.0, 1.0]]), np.array([False, True, False]))
    assert rows.to_dict("records") == [
        {"client": 4, "leaked": "3", "draw": 1, "score_0": 0.0, "score_1": 1.0}
    ]
