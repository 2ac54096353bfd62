"""Federations with data at the nodes, in one process: the real ClientApp without a network."""

import json
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, MetricRecord

from fedser.client.app import app as client_app
from fedser.client.holdings import Holdings
from fedser.client.models.linear import Linear
from fedser.client.speakers.clients import held_out_set, make_clients
from fedser.common.errors import Suspended
from fedser.server.federation.admission import merge_rosters
from fedser.server.grids.local import LocalGrid, node_context
from fedser.server.rounds.federate import federate
from fedser.server.study.files import write_training
from fedser.server.transcript.transcript import Transcript
from tests import examples
from tests.client.speakers.test_public_model import public_model, with_hidden_layers
from tests.examples import ADAPTIVE, MATRIX, corpus

ROUNDS = 6
HELD = {
    11: ["s00", "s05"],
    12: ["s01", "s02", "s03", "s08"],
    13: ["s04", "s06", "s07"],
    14: ["s09"],
}
"""Speakers of each node. The last two speakers test; the last node trains no client."""


class Killed(BaseException):
    """No code handles this error, like a kill."""


class RealNodes(LocalGrid):
    """Nodes with their own speakers. `change` replaces a reply, or raises."""

    def __init__(self, folder, change=lambda message, reply: reply, here=tuple(HELD)):
        super().__init__(client_app)
        self.change, self.here, self.sent = change, here, []
        self.configs = {
            n: {"holdings": str(folder / f"{n}.safetensors"), "device": "cpu"} for n in HELD
        }

    def get_node_ids(self):
        return self.here

    def _submit(self, message_id, message):
        node = message.metadata.dst_node_id
        self.sent.append((int(message.metadata.group_id), node))
        reply = self._client_app(message, node_context(node, self.configs[node]))
        self._replies[message_id] = self.change(message, reply)

    def pull_messages(self, message_ids):
        return [reply for reply in super().pull_messages(message_ids) if reply]


@pytest.fixture
def remote(tmp_path):
    """Return a function that makes a federation with all data at the nodes."""
    data, rosters = corpus(), {}
    for node, speakers in HELD.items():
        rows = [i for i, u in enumerate(data.utterances) if u.speaker in speakers]
        part = [data.utterances[i] for i in rows]
        own = type(data)(data.name, data.shards, part, data.features[rows], [], [])
        held = Holdings(own, "made-up")
        held.save(tmp_path / f"{node}.safetensors")
        rosters[node] = held.roster
    roster = merge_rosters(rosters)

    def make(name, privacy=None, public=None, **changes):
        made = federation(tmp_path / name / "t", privacy, public)
        held = replace(roster, public=public)
        clients = held.clients(data.speakers[:8], data.speakers[8:], "speaker")
        changes = {"checkpoint": tmp_path / name / "c", "patience": 0.1, **changes}
        return replace(made, clients=clients, test=None, **changes)

    return make


def federation(folder, privacy=None, public=None):
    """A simulated federation; if there is a public model, on the coordinates that it gives."""
    if public is None:
        return examples.federation(folder, rounds=ROUNDS, privacy=privacy)
    data = replace(corpus(), public=public)
    clients = make_clients(data, data.speakers[:8], 0, "speaker")
    made = examples.federation(folder, rounds=ROUNDS, privacy=privacy, model=Linear(components=5))
    test = held_out_set(data, data.speakers[8:], clients, "speaker")
    return replace(made, clients=clients, test=test, start=public.head)


def figures(outcome):
    rows = [{**vars(row), "seconds": 0.0} for row in outcome.rounds]
    scores = {**vars(outcome.best_scores), "confusion": outcome.best_scores.confusion.tolist()}
    return json.dumps([rows, outcome.best_round, scores, outcome.releases, outcome.epsilon])


def files_of(folder):
    return {path.name: path.read_bytes() for path in (folder / "t").iterdir()}


@pytest.mark.parametrize(
    ("privacy", "public"),
    [
        (None, None),
        (ADAPTIVE, None),
        (MATRIX, None),
        (None, public_model()),
        (None, with_hidden_layers()[0]),
    ],
)
def test_remote_nodes_give_the_results_of_a_simulation(privacy, public, remote, tmp_path):
    grid = RealNodes(tmp_path)
    networked = federate(grid, remote("n", privacy, public), tmp_path, "cpu")
    simulated = federation(tmp_path / "s" / "t", privacy, public)
    simulated = replace(simulated, checkpoint=tmp_path / "s" / "c")
    outcome = federate(LocalGrid(client_app), simulated, tmp_path, "cpu")
    assert figures(networked) == figures(outcome)
    assert files_of(tmp_path / "n") == files_of(tmp_path / "s")
    for name, array in outcome.best_arrays.items():
        np.testing.assert_array_equal(networked.best_arrays[name], array)
    # One message per node and round, and one more to evaluate the last model.
    assert grid.sent == [(r, node) for r in range(1, ROUNDS + 2) for node in HELD]


def die(number, node=12):
    def change(message, reply):
        if (int(message.metadata.group_id), message.metadata.dst_node_id) == (number, node):
            raise Killed
        return reply

    return change


@pytest.mark.parametrize("number", [1, 2, 4, ROUNDS, ROUNDS + 1])
def test_a_run_over_nodes_resumes_with_every_row(number, remote, tmp_path):
    """When the run is killed, the row of the round before still waits for the nodes."""
    whole = federate(RealNodes(tmp_path), remote("w"), tmp_path, "cpu")
    with pytest.raises(Killed):
        federate(RealNodes(tmp_path, die(number)), remote("k"), tmp_path, "cpu")
    grid = RealNodes(tmp_path)
    resumed = federate(grid, remote("k"), tmp_path, "cpu")
    assert figures(resumed) == figures(whole)
    assert files_of(tmp_path / "k") == files_of(tmp_path / "w")
    assert grid.sent[0][0] == max(1, number - 1)  # its row was not there yet
    assert not np.isnan([[row.validation_uar, row.test_uar] for row in resumed.rounds]).any()


def test_a_run_is_suspended_while_nodes_are_gone(remote, tmp_path):
    whole = federate(RealNodes(tmp_path), remote("w"), tmp_path, "cpu")
    grid = RealNodes(tmp_path)

    def leave(message, reply):
        if int(message.metadata.group_id) == 4:
            grid.here = (11, 12, 99)  # node 99 holds no data of this study
        return reply

    grid.change = leave
    with pytest.raises(Suspended, match="2 of 3 nodes are here, missing: 13, 14 after"):
        federate(grid, remote("g", min_clients=3), tmp_path, "cpu")
    resumed = federate(RealNodes(tmp_path), remote("g", min_clients=3), tmp_path, "cpu")
    assert figures(resumed) == figures(whole)


def lie(node, make):
    """Make a node send wrong tables for each model."""

    def change(message, reply):
        if message.metadata.dst_node_id == node:
            make(reply.content)
        return reply

    return change


def set_table(name, make):
    def change(content):
        record = dict(content["evaluation"])
        record[name] = make(list(record[name]))
        content["evaluation"] = MetricRecord(record)

    return change


LIES = {
    "no tables": lambda content: content.pop("evaluation"),
    "another record": lambda content: content.update(evaluation=ConfigRecord()),
    "one table": lambda content: content["evaluation"].pop("test"),
    "a third table": lambda content: content["evaluation"].update(other=[0] * 16),
    "a number": set_table("test", lambda counts: 12),
    "fewer places": set_table("test", lambda counts: counts[:15]),
    "more places": set_table("test", lambda counts: [*counts, 0]),
    "no places": set_table("validation", lambda counts: []),
    "halves": set_table("validation", lambda counts: [count / 1 for count in counts]),
    "below zero": set_table("validation", lambda counts: [counts[0] + 1, -1, *counts[2:]]),
    "more utterances": set_table("test", lambda counts: [counts[0] + 1, *counts[1:]]),
    "fewer utterances": set_table("validation", lambda counts: [0] * 16),
    "a huge number": set_table("test", lambda counts: [2**70, *counts[1:]]),
    "NaN": set_table("test", lambda counts: [float("nan")] * 16),
}


@pytest.mark.parametrize("name", LIES)
def test_a_lying_node_loses_only_its_own_counts(name, remote, tmp_path):
    """Its updates still count; the figures are those of the other nodes."""
    federate(RealNodes(tmp_path), remote("w"), tmp_path, "cpu")
    grid = RealNodes(tmp_path, lie(12, LIES[name]))
    outcome = federate(grid, remote("l"), tmp_path, "cpu")
    assert files_of(tmp_path / "l") == files_of(tmp_path / "w")
    assert [row.rejections for row in outcome.rounds] == [{"evaluation": 1}] * ROUNDS
    assert [row.rejected for row in outcome.rounds] == [0] * ROUNDS
    assert outcome.best_scores.confusion.sum() == 12  # of node 14 only; all nodes have 24
    silent = RealNodes(tmp_path, lie(12, LIES["no tables"]))
    assert figures(outcome) == figures(federate(silent, remote("n"), tmp_path, "cpu"))


def test_a_node_can_lie_only_within_its_own_counts(remote, tmp_path):
    """The server cannot notice it: only the counts of its own utterances are wrong."""
    whole = federate(RealNodes(tmp_path), remote("w"), tmp_path, "cpu")
    wrong = [0, 12, *[0] * 14]
    made = lie(14, set_table("test", lambda counts: wrong))
    outcome = federate(RealNodes(tmp_path, made), remote("l"), tmp_path, "cpu")
    alone = lie(14, LIES["no tables"])
    others = federate(RealNodes(tmp_path, alone), remote("o"), tmp_path, "cpu")
    assert [row.rejections for row in outcome.rounds] == [{}] * ROUNDS
    ours = outcome.best_scores.confusion - np.array(wrong).reshape(4, 4)
    same = outcome.best_round == others.best_round
    assert not same or np.array_equal(ours, others.best_scores.confusion)
    assert outcome.best_scores.confusion.sum() == whole.best_scores.confusion.sum() == 24


@pytest.mark.parametrize("silent", [(12, 14), tuple(HELD)])
def test_figures_that_no_node_sent_are_missing(silent, remote, tmp_path):
    def mute(message, reply):
        if message.metadata.dst_node_id in silent:
            del reply.content["evaluation"]
        return reply

    outcome = federate(RealNodes(tmp_path, mute), remote("f"), tmp_path, "cpu")
    assert np.isnan([row.test_uar for row in outcome.rounds]).all()
    untold = np.isnan([row.validation_uar for row in outcome.rounds])
    assert untold.all() if silent == tuple(HELD) else not untold.any()
    write_training(tmp_path, corpus(), [outcome], "speaker", 1.0)
    utility = json.loads((tmp_path / "training.json").read_text())["utility"]
    assert utility["uar"] is utility["accuracy"] is utility["per_fold"][0]["uar"] is None
    assert Transcript(tmp_path / "f" / "t").num_models == ROUNDS + 1


@pytest.mark.parametrize("number", [4, 5, 6])
def test_the_best_model_has_figures_of_most_utterances(number, remote, tmp_path):
    def mute(message, reply):
        if int(message.metadata.group_id) != number + 1 and message.metadata.dst_node_id == 14:
            del reply.content["evaluation"]
        return reply

    whole = federate(RealNodes(tmp_path), remote("w"), tmp_path, "cpu")
    outcome = federate(RealNodes(tmp_path, mute), remote("m"), tmp_path, "cpu")
    assert outcome.best_round == number
    assert outcome.best_scores.confusion.sum() == whole.best_scores.confusion.sum()
    assert outcome.best_scores.test_uar == outcome.rounds[number - 1].test_uar


def test_a_failed_or_late_node_is_counted_by_both_reasons(remote, tmp_path):
    def fail(message, reply):
        number, node = int(message.metadata.group_id), message.metadata.dst_node_id
        if node == 12 and number == 2:
            failed = Message(Error(3, "expired"), reply_to=message)
            failed.metadata.__dict__["_src_node_id"] = 1  # Flower itself reports it
            return failed
        return None if node == 12 and number == 3 else reply

    outcome = federate(RealNodes(tmp_path, fail), remote("f"), tmp_path, "cpu")
    asked = [outcome.federation.sampler(number) for number in (2, 3)]
    own = [sum(client in (1, 2, 3) for client in cohort) for cohort in asked]
    assert sum(own) > 0
    for row, lost, reason in zip(outcome.rounds[1:3], own, ("failed", "missing"), strict=True):
        assert row.rejections == {"evaluation": 1, **({reason: lost} if lost else {})}
    assert outcome.rounds[3].rejections == {}
