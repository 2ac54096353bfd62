"""Nodes that lie about their speakers in at least forty ways.

Each lie costs the node its place in the study. The others go on as if it did not exist.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedser.client.app import app as client_app
from fedser.client.holdings import Holdings
from fedser.common.errors import UserError
from fedser.server.federation.admission import merge_rosters
from fedser.server.grids.local import LocalGrid, node_context
from fedser.server.network.polling import poll_each_reply
from fedser.server.network.roster import Network
from fedser.server.rounds.federate import federate
from fedser.server.transcript.transcript import Transcript
from tests import examples
from tests.server.rounds.test_remote import HELD

HONEST = {11: ["s00", "s05", "s09"], 13: ["s01", "s02", "s03", "s08"], 14: ["s04", "s06", "s07"]}
LIAR = 12
NAMES = {11: "b", LIAR: "a", 13: "c", 14: "d"}
"""The name of the lying node comes first."""

BAD_NAMES = {
    "a lone surrogate": "\ud800",
    "HTML": "<script>alert(1)</script>",
    "an attribute": 's" onmouseover="x',
    "ANSI": "s\x1b[2J\x1b]0;owned\x07",
    "a newline": "s\nnode b: trusted",
    "a carriage return": "s\rnode b",
    "NUL": "s\x00",
    "a path upwards": "../../../etc/passwd",
    "a path upwards inside": "s/../../x",
    "an absolute path": "/etc/passwd",
    "a Windows path": "C:\\Windows",
    "a megabyte": "s" * 2**20,
    "nothing": "",
    "a space": " ",
    "spaces around": " s ",
    "a formula": "=cmd|' /C calc'!A0",
    "an option": "--help",
    "markup": "[red]s[/red]",
    "an interpolation": "${oc.env:HOME}",
    "a template": "{{7*7}}",
    "right to left": "s\u202e10s",
    "no width": "s\u200b",
    "a separator": "s\u2028",
    "decomposed": "Jo\u0308rg",
    "a tag": "s\U000e0041",
    "not a character": "s\uffff",
}
BAD_NUMBERS = [2**31, 2**70, 10**300, 0, -12, 1, 12.0, "12", None, True, [12], float("nan")]
OTHERS = {"version": "0", "corpus": "other", "shards": 2, "features": "egemaps", "dimension": 13}


def lies(roster):
    """Return the texts that the lying node sends in place of its roster, by name."""
    speakers = roster["speakers"]
    found = {f"named {n}": {**speakers, name: 12} for n, name in BAD_NAMES.items()}
    found |= {f"{number!r} utterances": {**speakers, "x": number} for number in BAD_NUMBERS}
    found["everybody's speakers"] = {s: 12 for held in HELD.values() for s in held}
    found["two other speakers"] = {**speakers, "s00": 12, "S01": 12}
    found["200,000 speakers"] = {f"x{number}": 12 for number in range(200_000)}
    found["no speaker"] = {}
    found["out of proportion"] = {**speakers, "x": 50_000}
    found["names in other case"] = {"x": 12, "X": 12}
    texts = {name: json.dumps({**roster, "speakers": s}) for name, s in found.items()}
    texts |= {f"another {key}": json.dumps({**roster, key: v}) for key, v in OTHERS.items()}
    texts |= {f"bad {k}": json.dumps({**roster, k: "\x1b[2J" * 9}) for k in OTHERS}
    texts |= {
        f"without {k}": json.dumps({n: v for n, v in roster.items() if n != k}) for k in roster
    }
    texts |= {
        "no JSON": "{",
        "nothing": "",
        "a list": "[]",
        "deep": "[" * 200_000,
        "a long number": "1" * 100_000,
        "ten megabytes": json.dumps({**roster, "more": "x" * 10**7}),
        "code": "__import__('os').mkdir('ran')",
    }
    return texts


def holdings(speakers):
    data = examples.corpus()
    rows = [i for i, u in enumerate(data.utterances) if u.speaker in speakers]
    part = [data.utterances[i] for i in rows]
    return Holdings(replace(data, utterances=part, features=data.features[rows], digests=[]), "f")


ROSTERS = {node: holdings(speakers).roster for node, speakers in HONEST.items()}
LIES = lies({**ROSTERS[11], "speakers": {"x0": 12, "x1": 12}})


class OneLiar(LocalGrid):
    """A grid of nodes; one of them sends a wrong roster."""

    def __init__(self, folder, lie):
        super().__init__(client_app)
        self.lie, self.here = lie, tuple(NAMES)
        self.configs = {
            n: {"holdings": str(folder / f"{n}.safetensors"), "device": "cpu"} for n in HONEST
        }

    def get_node_ids(self):
        return self.here

    def _submit(self, message_id, message):
        node = message.metadata.dst_node_id
        if node == LIAR:
            record = ConfigRecord({"json": self.lie}) if isinstance(self.lie, str) else self.lie
            reply = Message(RecordDict({"roster": record}), reply_to=message)
        else:
            reply = self._client_app(message, node_context(node, self.configs[node]))
        self._replies[message_id] = reply


@pytest.fixture
def nodes(tmp_path):
    for node, speakers in HONEST.items():
        holdings(speakers).save(tmp_path / f"{node}.safetensors")

    def make(lie):
        grid = OneLiar(tmp_path, lie)
        poll_each_reply(grid)
        return grid

    return make


def test_there_are_many_lies():
    assert len(LIES) >= 40


@pytest.mark.parametrize("name", LIES)
def test_a_lie_costs_only_the_place_of_its_node(name, nodes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    roster = Network(nodes(LIES[name]), NAMES, 4, 3).roster(1)
    assert roster == merge_rosters(ROSTERS)
    said = capsys.readouterr().err
    assert said.startswith("left out: node a: ") and said.count("\n") == 1 and len(said) < 400
    assert said[:-1].isprintable() and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("record", [ConfigRecord({"x": 1}), ConfigRecord({"json": 7})])
def test_another_record_costs_only_the_place_of_its_node(record, nodes):
    assert Network(nodes(record), NAMES, 4, 3).roster(1) == merge_rosters(ROSTERS)


def test_too_few_nodes_are_reported_with_reasons(nodes):
    with pytest.raises(UserError, match=r"^3 of 4 nodes can take part: node a: .*min_clients$"):
        Network(nodes("{"), NAMES, 4, 4).roster(1)


def test_the_run_has_the_same_figures_without_the_liar(nodes, tmp_path):
    def run(name, here, grid):
        roster = Network(grid, {node: NAMES[node] for node in here}, len(here), 3).roster(1)
        made = examples.federation(tmp_path / name, rounds=3)
        speakers = roster.speakers
        clients = roster.clients(speakers[:8], speakers[8:], "speaker")
        outcome = federate(grid, replace(made, clients=clients, test=None), tmp_path, "cpu")
        models = [a for _, m in Transcript(tmp_path / name).global_models() for a in m.values()]
        return outcome.best_scores.confusion, models

    lied = run("l", tuple(NAMES), nodes(LIES["everybody's speakers"]))
    alone = nodes("")
    alone.here = tuple(HONEST)
    confusion, models = run("h", tuple(HONEST), alone)
    assert np.array_equal(lied[0], confusion) and all(map(np.array_equal, lied[1], models))


def test_work_is_linear_in_the_number_of_speakers():
    """Each speaker of the largest rosters is looked up at most five times."""
    looked = 0

    class Counted(dict):
        def __getitem__(self, key):
            nonlocal looked
            looked += 1
            return super().__getitem__(key)

    made = {
        node: {**ROSTERS[11], "speakers": {f"{node}-{n}": 12 for n in range(5000)}}
        for node in range(8)
    }
    roster = merge_rosters(made)
    roster = replace(roster, nodes=Counted(roster.nodes), counts=Counted(roster.counts))
    speakers = roster.speakers
    roster.clients(speakers[:30_000], speakers[30_000:], "speaker")
    assert looked <= 5 * len(speakers)
