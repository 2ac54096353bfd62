"""What each vantage shows of each client, against the written updates and models."""

from collections import defaultdict

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from fedser.attacks.adversary.tap import View, pseudo_gradients, tap
from fedser.client.app import app as client_app
from fedser.common.errors import UserError
from fedser.server.grids.local import LocalGrid
from fedser.server.rounds.federate import federate
from fedser.server.transcript.transcript import RecordedUpdates, Transcript, TranscriptMeta
from fedser.server.transcript.writer import TranscriptWriter
from tests.examples import federation

NAMES = ["dense.0.weight", "dense.0.bias"]
COHORTS = [[0, 3], [1], [0, 1, 3], [], [3]]
ROUNDS_OF = {0: [1, 3], 1: [2, 3], 3: [1, 3, 5]}
LEARNING_RATE, STEPS = 0.01, {0: 1, 1: 1, 3: 2}  # in batches of four


def run(folder, **kwargs):
    folder.mkdir(exist_ok=True)
    return federate(LocalGrid(client_app), federation(folder / "t", **kwargs), folder, "cpu")


@pytest.fixture
def written(tmp_path):
    """A transcript of five rounds, the models (6, ...) and the updates by client."""
    rng = np.random.default_rng(0)
    models = {"dense.0.weight": rng.normal(size=(6, 4, 3)), "dense.0.bias": rng.normal(size=(6, 4))}
    models = {name: array.astype(np.float32) for name, array in models.items()}
    training = {"batch_size": 4, "learning_rate": LEARNING_RATE, "epochs": 1}
    meta = TranscriptMeta("made", "fedavg", 4, 5, NAMES, "float32", training)
    sent = defaultdict(list)
    with TranscriptWriter(tmp_path, meta, {}) as writer:
        for server_round, cohort in enumerate(COHORTS, 1):
            arrays = {
                name: rng.normal(size=(len(cohort), *array.shape[1:])).astype(np.float32)
                for name, array in models.items()
            }
            for row, client in enumerate(cohort):
                sent[client].append({name: array[row] for name, array in arrays.items()})
            clients = np.array(cohort, dtype=np.int64)
            at = np.full(len(cohort), server_round)
            model = {name: array[server_round - 1] for name, array in models.items()}
            writer.record(server_round, model, [RecordedUpdates(at, clients, clients + 2, arrays)])
        writer.record_model(6, {name: array[5] for name, array in models.items()})
    return Transcript(tmp_path), models, sent


def test_a_pseudo_gradient_divides_by_minus_rate_and_steps(tmp_path):
    run(tmp_path, rounds=2)
    stored = Transcript(tmp_path / "t")
    (chunk,) = stored
    # ten training utterances in batches of four: three steps at 5e-3
    assert set(chunk.num_examples) == {10}
    found = pseudo_gradients(stored.meta, chunk)
    np.testing.assert_allclose(
        found["dense.0.weight"], -chunk.arrays["dense.0.weight"] / (3 * 5e-3), rtol=1e-5
    )


def test_a_fedsgd_update_is_unchanged(tmp_path):
    run(tmp_path, rounds=2, algorithm="fedsgd")
    stored = Transcript(tmp_path / "t")
    (chunk,) = stored
    for seen in tap(stored, View("attributed", ["dense.0.bias"], True)):
        sent = chunk.arrays["dense.0.bias"][chunk.client == seen.client]
        np.testing.assert_array_equal(seen.gradients["dense.0.bias"], sent)


@pytest.mark.parametrize("parameters", [NAMES, NAMES[1:]])
def test_attributed_shows_each_clients_own_updates(written, parameters):
    stored, _, sent = written
    seen = list(tap(stored, View("attributed", parameters, initial_weights=True)))
    assert {one.client: one.round.tolist() for one in seen} == ROUNDS_OF
    for one in seen:
        assert list(one.gradients) == parameters
        for name, array in one.gradients.items():
            updates = np.stack([update[name] for update in sent[one.client]])
            expected = -updates / (LEARNING_RATE * STEPS[one.client])
            np.testing.assert_allclose(array, expected, rtol=1e-6)


def ridge(moves):
    """The estimates of clients 0, 1 and 3 by scikit-learn, from moves (5, p)."""
    rounds, clients = [0, 1, 2, 4], [0, 1, 3]  # nobody took part in the fourth
    weights = np.array([[(c in COHORTS[r]) / len(COHORTS[r]) for c in clients] for r in rounds])
    penalty = 0.1 * np.square(weights).sum() / len(clients)
    mean = moves[rounds].mean(axis=0)
    fitted = Ridge(alpha=penalty, fit_intercept=False).fit(weights, moves[rounds] - mean)
    return dict(zip(clients, fitted.coef_.T + mean, strict=True))


@pytest.mark.parametrize("initial_weights", [True, False])
def test_sums_are_divided_among_clients_by_ridge_regression(written, initial_weights):
    stored, models, _ = written
    seen = list(tap(stored, View("aggregate", NAMES, initial_weights)))
    assert {one.client: one.round.tolist() for one in seen} == {0: [5], 1: [5], 3: [5]}
    for name, array in models.items():
        expected = ridge((array[:5] - array[1:]).reshape(5, -1).astype(float))
        for one in seen:
            found = one.gradients[name].reshape(-1)
            np.testing.assert_allclose(found, expected[one.client], rtol=1e-4, atol=1e-5)


def test_clients_of_the_same_rounds_have_the_same_estimate(tmp_path):
    """If all take part and have as many utterances, it is the mean of all updates."""
    run(tmp_path, rounds=5, fraction=1.0)
    first, *others = tap(Transcript(tmp_path / "t"), View("aggregate", NAMES, True))
    sent = [
        one.gradients for one in tap(Transcript(tmp_path / "t"), View("attributed", NAMES, True))
    ]
    assert len(others) > 5
    for name, array in first.gradients.items():
        expected = np.mean([gradients[name] for gradients in sent], axis=(0, 1)) * 3 * 5e-3
        np.testing.assert_allclose(array[0], expected, atol=1e-6)
    for other in others:
        for name, array in first.gradients.items():
            np.testing.assert_array_equal(other.gradients[name], array)


def test_many_sums_give_away_what_a_client_adds(tmp_path):
    """Clients add a constant vector each, and noise of the same size in each round."""
    rng = np.random.default_rng(1)
    own = rng.normal(size=(12, 50)).astype(np.float32)
    meta = TranscriptMeta("sums", "fedsgd", 12, 200, [NAMES[1]], "float32", {})
    model = np.zeros(50, np.float32)
    with TranscriptWriter(tmp_path, meta, {}) as writer:
        for number in range(1, 201):
            cohort = np.sort(rng.choice(12, 3, replace=False))
            sent = own[cohort] + rng.normal(size=(3, 50)).astype(np.float32)
            sent_now = RecordedUpdates(np.full(3, number), cohort, cohort + 1, {NAMES[1]: sent})
            writer.record(number, {NAMES[1]: model}, [sent_now])
            model = model - sent.mean(axis=0)
        writer.record_model(201, {NAMES[1]: model})
    for one in tap(Transcript(tmp_path), View("aggregate", [NAMES[1]], True)):
        found = [np.corrcoef(one.gradients[NAMES[1]][0], truth)[0, 1] for truth in own]
        assert np.argmax(found) == one.client and found[one.client] > 0.7


@pytest.mark.parametrize("initial_weights", [True, False])
def test_final_shows_the_same_model_for_every_client(written, initial_weights):
    stored, models, _ = written
    seen = list(tap(stored, View("final", NAMES, initial_weights)))
    assert [one.client for one in seen] == [0, 1, 3]
    for one in seen:
        assert one.round.tolist() == [5]
        for name, array in models.items():
            start = array[:1] if initial_weights else 0
            np.testing.assert_array_equal(one.gradients[name], start - array[5:])


def test_rows_choose_clients_and_their_updates(written):
    stored, _, _ = written
    view = View("attributed", NAMES, True)
    whole = {one.client: one for one in tap(stored, view)}
    rows = {3: np.array([0, 2]), 0: np.array([1])}
    seen = list(tap(stored, view, rows))
    assert [one.client for one in seen] == [0, 3]
    for one in seen:
        of_client = whole[one.client]
        np.testing.assert_array_equal(one.round, of_client.round[rows[one.client]])
        for name in NAMES:
            expected = of_client.gradients[name][rows[one.client]]
            np.testing.assert_array_equal(one.gradients[name], expected)
    assert list(tap(stored, view, {})) == []


@pytest.mark.parametrize("vantage", ["aggregate", "final"])
def test_rows_choose_clients_without_their_updates(written, vantage):
    stored, _, _ = written
    view = View(vantage, NAMES, True)
    (expected,) = (one for one in tap(stored, view) if one.client == 1)
    (one,) = tap(stored, view, {1: np.array([0])})
    assert one.client == 1
    for name in NAMES:
        np.testing.assert_array_equal(one.gradients[name], expected.gradients[name])


@pytest.mark.parametrize("vantage", ["attributed", "aggregate", "final"])
def test_reading_in_chunks_changes_nothing(tmp_path, monkeypatch, vantage):
    run(tmp_path / "whole", rounds=6)
    monkeypatch.setattr("fedser.server.transcript.transcript.CHUNK_BYTES", 4000)
    run(tmp_path / "chunks", rounds=6)
    whole, parts = (Transcript(tmp_path / name / "t") for name in ("whole", "chunks"))
    assert len(list(whole)) == 1 < len(list(parts))
    tapped = [list(tap(stored, View(vantage, NAMES, True))) for stored in (whole, parts)]
    for one, other in zip(*tapped, strict=True):
        assert one.client == other.client
        np.testing.assert_array_equal(one.round, other.round)
        for name in NAMES:
            np.testing.assert_array_equal(one.gradients[name], other.gradients[name])


@pytest.mark.parametrize("vantage", ["attributed", "aggregate", "final"])
def test_a_transcript_without_updates_is_rejected(tmp_path, vantage):
    run(tmp_path, rounds=1)
    next((tmp_path / "t").glob("updates-*")).unlink()
    with pytest.raises(UserError, match="transcript of private-fold0 holds no update"):
        list(tap(Transcript(tmp_path / "t"), View(vantage, NAMES, True)))
