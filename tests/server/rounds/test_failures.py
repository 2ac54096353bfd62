"""Nodes that fail, are late or are gone: the run goes on, and so do its guarantee and its books."""

import math
from collections import Counter
from dataclasses import replace
from threading import Timer

import numpy as np
import pytest
from flwr.app import Error, Message

from fedser.client.app import app as client_app
from fedser.client.privacy.rounded_gaussian import grid_step
from fedser.common.errors import Suspended
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.server.grids.local import LocalGrid
from fedser.server.rounds.federate import federate
from fedser.server.strategy.averaging import wait_for_nodes
from fedser.server.transcript.transcript import Transcript
from tests.examples import ADAPTIVE, CENTRAL, LOCAL, SHARED, UDP, federation

ROUNDS = 6


class Flaky(LocalGrid):
    """Two nodes, of which the second does not answer in some rounds, or with an error."""

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


def run(folder, grid, privacy, **changes):
    folder.mkdir()
    made = federation(folder / "t", rounds=ROUNDS, fraction=0.9, privacy=privacy)
    outcome = federate(grid, replace(made, **changes), folder, "cpu")
    return outcome, dict(Transcript(folder / "t").global_models()), updates_of(folder)


def updates_of(folder):
    """Updates by round, as the server received them: flat, by client."""
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
def test_dropped_clients_leave_the_whole_noise_and_the_public_denominator(
    failure, privacy, tmp_path
):
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
        # The very same noise is there in full, whatever clip it was scaled to by then.
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
    if failure == "late":  # their updates may have left all the same
        assert outcome.releases == whole.releases
        assert outcome.epsilon_known == whole.epsilon_known
    else:
        assert sum(whole.releases.values()) - sum(outcome.releases.values()) == dropped


def test_an_adaptive_clip_counts_dropped_clients_as_neither_clipped_nor_not(tmp_path):
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


def test_under_local_noise_each_update_carries_its_own_whatever_is_missing(tmp_path):
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


def test_nodes_have_the_time_that_was_set_to_reply_in(tmp_path):
    grid = Flaky()
    run(tmp_path / "f", grid, None, round_timeout=7.5)
    assert grid.timeouts == {7.5}


def test_a_round_waits_for_as_many_nodes_as_were_set_and_not_for_ever(tmp_path, capsys):
    grid, here = Flaky(), [3]
    grid.get_node_ids = lambda: list(here)
    timer = Timer(0.3, lambda: here.extend([1, 2]))
    timer.start()
    assert wait_for_nodes(grid, 3, 60) == [1, 2, 3]
    timer.join()
    with pytest.raises(Suspended, match=r"^3 of 4 nodes are here after 0\.2 s: start them, or"):
        wait_for_nodes(grid, 4, 0.2)
    assert "waiting for nodes: 3 of 4 nodes are here\n" in capsys.readouterr().err
    names = {2: "b", 3: "c", 8: "h", 9: "i"}  # of others nobody knows what they hold
    assert wait_for_nodes(grid, 2, 0, names) == [2, 3]
    with pytest.raises(Suspended, match=r"^2 of 3 nodes are here, missing: h, i after 0\.1 s: "):
        wait_for_nodes(grid, 3, 0.1, names)
    with pytest.raises(Suspended, match=r"2 of 3 nodes .* runtime\.patience, then go on$"):
        run(tmp_path / "f", Flaky(), LOCAL, min_clients=3, patience=0.1)
    assert not (tmp_path / "f" / "t" / "updates-00000.safetensors").exists()


def test_a_run_that_was_suspended_goes_on_when_its_nodes_are_back(tmp_path):
    kept = {"checkpoint": tmp_path / "c"}
    whole, models, _ = run(tmp_path / "w", Flaky(), None)
    made = federation(tmp_path / "f" / "t", rounds=ROUNDS, fraction=0.9)
    made = replace(made, **kept)
    (tmp_path / "f").mkdir()
    gone = Flaky(late={3, 4, 5, 6})
    gone.answer, answer = lambda m: None if int(m.metadata.group_id) > 2 else answer(m), gone.answer
    with pytest.raises(Suspended, match=r"round 5: for 3 rounds not one .* \(\d missing\)"):
        federate(gone, made, tmp_path / "f", "cpu")
    resumed = federate(Flaky(), made, tmp_path / "f", "cpu")
    assert [row.round for row in resumed.rounds] == list(range(1, ROUNDS + 1))
    assert [row.clients == 0 for row in resumed.rounds] == [False, False, True, True, False, False]
    assert resumed.releases == whole.releases and resumed.epsilon == whole.epsilon
    after = dict(Transcript(tmp_path / "f" / "t").global_models())
    assert all(np.array_equal(after[3][n], models[3][n]) for n in SHARED)


@pytest.mark.parametrize(("privacy", "answering"), [(PrivacyConfig(), 2), (LOCAL, 3), (UDP, 3)])
def test_who_was_asked_before_an_interruption_is_counted_though_nobody_answers_again(
    privacy, answering, tmp_path
):
    """The first time the update may have left; the second time the node fails before.

    Without noise the second time releases the same again; with noise it is one release more.
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
