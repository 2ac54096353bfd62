"""Nodes that fail, are late or are gone: the run goes on, and its guarantee and ledger hold."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Error, Message

from fedser.client.app import app as client_app
from fedser.client.privacy.rounded_gaussian import grid_step
from fedser.common.errors import Suspended
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.server.grids.local import LocalGrid
from fedser.server.rounds.federate import federate
from fedser.server.transcript.transcript import Transcript
from tests.examples import ADAPTIVE, CENTRAL, LOCAL, MATRIX, SHARED, UDP, federation

ROUNDS = 6


class Flaky(LocalGrid):
    """Two nodes; in some rounds the second does not answer, or answers with an error."""

    def __init__(self, late=(), failing=()):
        super().__init__(client_app)
        self.late, self.failing, self.timeouts = late, failing, set()

    def get_node_ids(self):
        return [1, 2]

    def send_and_receive(self, messages, *, timeout=None):
        self.timeouts.add(timeout)
        return [r for m in messages for r in [self.answer(m)] if r is not None]

    def answer(self, message):
        server_round = int(message.metadata.group_id)
        (message_id,) = self.push_messages([message])
        (reply,) = self.pull_messages([message_id])
        if message.metadata.dst_node_id == 2 and server_round in self.late:
            return None
        if message.metadata.dst_node_id == 2 and server_round in self.failing:
            return Message(Error(2, "out of memory"), reply_to=message)
        return reply


def run(folder, grid, privacy, fraction=0.9, **changes):
    folder.mkdir()
    made = federation(folder / "t", rounds=ROUNDS, fraction=fraction, privacy=privacy)
    outcome = federate(grid, replace(made, **changes), folder, "cpu")
    return outcome, dict(Transcript(folder / "t").global_models()), updates_of(folder)


def updates_of(folder):
    """Flat updates by round and client, as the server received them."""
    found = {number: {} for number in range(1, ROUNDS + 1)}
    for chunk in Transcript(folder / "t"):
        for row, number in enumerate(chunk.round.tolist()):
            flat = np.concatenate([chunk.arrays[name][row].ravel() for name in SHARED])
            found[number][int(chunk.client[row])] = flat.astype(np.float64)
    return found


def moved(models, server_round):
    before, after = models[server_round], models[server_round + 1]
    return np.concatenate([(after[n] - before[n]).ravel() for n in SHARED]).astype(np.float64)


@pytest.mark.parametrize("privacy", [CENTRAL, ADAPTIVE])
@pytest.mark.parametrize("failure", ["late", "failing"])
def test_dropped_clients_change_neither_noise_nor_denominator(failure, privacy, tmp_path):
    privacy = replace(privacy, epsilon=None, noise_multiplier=0.5)
    outcome, models, updates = run(tmp_path / "f", Flaky(**{failure: {2, 4}}), privacy)
    whole, all_models, all_updates = run(tmp_path / "w", Flaky(), privacy)
    expected_cohort = 0.9 * 8

    def noise(models, updates, rows, server_round):
        clip = rows[server_round - 1].clipping_norm
        total = sum(u * min(1, clip / np.linalg.norm(u)) for u in updates[server_round].values())
        return moved(models, server_round) * expected_cohort - total

    dropped = 0
    for row, undisturbed in zip(outcome.rounds, whole.rounds, strict=True):
        number = row.round
        lost = len(outcome.federation.sampler(number)) - len(updates[number])
        assert (row.clients, row.rejected) == (len(updates[number]), lost)
        assert row.rejections == (
            {{"late": "missing", "failing": "failed"}[failure]: lost} if lost else {}
        )
        dropped += lost
        # The same noise is there in full; it is scaled to the clip of the round.
        own = noise(models, updates, outcome.rounds, number) / row.clipping_norm
        same = noise(all_models, all_updates, whole.rounds, number) / undisturbed.clipping_norm
        step = grid_step(1.0, sum(SHARED.values()))  # updates are truncated to its multiples
        np.testing.assert_allclose(own, same, atol=2e-4 + 16 * step)
        plan = outcome.federation.protocol.plan
        stddev = plan.sum_stddev(1.0)
        assert own.std() == pytest.approx(stddev, rel=0.15)
        assert row.noise_stddev == pytest.approx(row.clipping_norm * stddev / expected_cohort)
    assert dropped >= 4
    assert outcome.epsilon == whole.epsilon
    if failure == "late":  # their updates may still have left
        assert outcome.releases == whole.releases
        assert outcome.epsilon_known == whole.epsilon_known
    else:
        assert sum(whole.releases.values()) - sum(outcome.releases.values()) == dropped


@pytest.mark.parametrize("failure", ["late", "failing"])
def test_a_dropped_client_waits_for_its_next_turn(failure, tmp_path):
    privacy = replace(MATRIX, epsilon=None, noise_multiplier=0.5)
    flaky = Flaky(**{failure: {2, 3}})
    outcome, models, updates = run(tmp_path / "f", flaky, privacy, fraction=0.25)
    whole, all_models, all_updates = run(tmp_path / "w", Flaky(), privacy, fraction=0.25)
    clip, cohort = privacy.clipping_norm, 2

    def noise(models, updates, number):
        total = sum(u * min(1, clip / np.linalg.norm(u)) for u in updates[number].values())
        return moved(models, number) * cohort - total

    step = grid_step(clip, sum(SHARED.values()))
    for number in range(1, ROUNDS + 1):
        own, same = noise(models, updates, number), noise(all_models, all_updates, number)
        np.testing.assert_allclose(own, same, atol=2e-4 * clip + 16 * step)
    present = {n: set(of_round) for n, of_round in updates.items()}
    assert [len(present[n]) for n in (1, 2, 3, 4)] == [2, 1, 1, 2]
    assert present[5] == present[1] and present[6] == set(all_updates[2])  # its next turn
    assert outcome.epsilon == whole.epsilon
    lost = 0 if failure == "late" else 2  # an update that is late may still have left
    assert sum(whole.releases.values()) - sum(outcome.releases.values()) == lost


def test_an_adaptive_clip_ignores_dropped_clients(tmp_path):
    privacy = replace(ADAPTIVE, epsilon=None, noise_multiplier=0.5)
    outcome, _, _ = run(tmp_path / "f", Flaky(late={1}), privacy)
    whole, _, updates = run(tmp_path / "w", Flaky(), privacy)
    clip = whole.rounds[0].clipping_norm
    below = {c: float(np.linalg.norm(u) <= clip) for c, u in updates[1].items()}
    present = updates_of(tmp_path / "f")[1]
    missing = sum(below[c] - 0.5 for c in below if c not in present)
    assert missing != 0
    step = math.log(outcome.rounds[1].clipping_norm / whole.rounds[1].clipping_norm)
    assert step == pytest.approx(privacy.clip_learning_rate * missing / (0.9 * 8), rel=1e-4)


def test_local_noise_does_not_depend_on_missing_clients(tmp_path):
    privacy = replace(LOCAL, epsilon=None, noise_multiplier=2.0)
    outcome, models, updates = run(tmp_path / "f", Flaky(late={2, 3}), privacy)
    whole, _, all_updates = run(tmp_path / "w", Flaky(), privacy)
    for row in outcome.rounds:
        present = updates[row.round]
        assert row.clients == len(present) == 7 - row.rejected
        np.testing.assert_allclose(
            moved(models, row.round), np.mean(list(present.values()), axis=0), atol=1e-5
        )
        assert row.noise_stddev == pytest.approx(2.0 * 2 * 0.1)  # z times the steps apart times C
    assert [row.rejected for row in outcome.rounds] == [0, 3, 3, 0, 0, 0]
    for client, update in updates[2].items():  # from the same model, the same release
        np.testing.assert_array_equal(update, all_updates[2][client])
    drawn = [outcome.federation.sampler(number) for number in range(1, ROUNDS + 1)]
    assert outcome.releases == Counter(client for cohort in drawn for client in cohort)
    assert outcome.epsilon == whole.epsilon


def test_nodes_have_the_configured_time_to_reply(tmp_path):
    grid = Flaky()
    run(tmp_path / "f", grid, None, round_timeout=7.5)
    assert grid.timeouts == {7.5}


def test_a_run_without_min_clients_is_suspended(tmp_path):
    with pytest.raises(Suspended, match=r"2 of 3 nodes .* runtime\.patience, then go on$"):
        run(tmp_path / "f", Flaky(), LOCAL, min_clients=3, patience=0.1)
    assert not (tmp_path / "f" / "t" / "updates-00000.safetensors").exists()


def test_a_suspended_run_goes_on_when_nodes_are_back(tmp_path):
    kept = {"checkpoint": tmp_path / "c"}
    whole, models, _ = run(tmp_path / "w", Flaky(), None)
    made = federation(tmp_path / "f" / "t", rounds=ROUNDS, fraction=0.9)
    made = replace(made, **kept)
    (tmp_path / "f").mkdir()
    gone = Flaky(late={3, 4, 5, 6})
    gone.answer, answer = lambda m: None if int(m.metadata.group_id) > 2 else answer(m), gone.answer
    with pytest.raises(Suspended, match=r"round 5: for 3 rounds no update .* \(\d missing\)"):
        federate(gone, made, tmp_path / "f", "cpu")
    resumed = federate(Flaky(), made, tmp_path / "f", "cpu")
    assert [row.round for row in resumed.rounds] == list(range(1, ROUNDS + 1))
    assert [row.clients == 0 for row in resumed.rounds] == [False, False, True, True, False, False]
    assert resumed.releases == whole.releases and resumed.epsilon == whole.epsilon
    after = dict(Transcript(tmp_path / "f" / "t").global_models())
    assert all(np.array_equal(after[3][n], models[3][n]) for n in SHARED)


@pytest.mark.parametrize(("privacy", "answering"), [(PrivacyConfig(), 2), (LOCAL, 3), (UDP, 3)])
def test_clients_asked_before_an_interruption_are_counted(privacy, answering, tmp_path):
    """The first time an update may have left; the second time the node fails before that.

    Without noise the second attempt releases the same again; with noise it is one more release.
    """
    made = federation(tmp_path / "t", rounds=2, fraction=1.0, privacy=privacy)
    made = replace(made, checkpoint=tmp_path / "c")

    class Killed(BaseException):
        pass

    killing = Flaky()

    def die(message):
        raise Killed

    killing.answer = die
    with pytest.raises(Killed):
        federate(killing, made, tmp_path, "cpu")
    outcome = federate(Flaky(failing={1, 2}), made, tmp_path, "cpu")
    own = [row.rejected for row in outcome.rounds]
    assert own == [4, 4]
    assert sorted(outcome.releases.values()) == [1] * 4 + [answering] * 4
