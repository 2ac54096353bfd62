"""Nodes that lie about an update in at least sixty ways, in a run of the real ClientApp.

No lie runs code, ends in a traceback or changes the run of the honest nodes: model, rounds and
figures are those of a run in which the node sends nothing.
"""

import os
import pickle
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord

from fedser.client.app import app as client_app
from fedser.client.messages import from_record, to_record
from fedser.client.models.base import initial_arrays
from fedser.common.errors import Suspended
from fedser.server.federation.scores import FiniteScores
from fedser.server.grids.local import LocalGrid
from fedser.server.rounds.checkpoint import STATE
from fedser.server.rounds.federate import federate
from fedser.server.transcript.transcript import Transcript
from tests import examples
from tests.examples import ATTENTION, CENTRAL, MLP
from tests.server.rounds.test_remote import RealNodes, remote  # noqa: F401

LIAR = 12

HUGE = [1e5, 1e20, 3.4e38, -3.4e38]


class Payload:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def scaled(factor):
    def lie(content):
        arrays = from_record(content["arrays"])
        content["arrays"] = to_record({n: (a * np.float32(factor)) for n, a in arrays.items()})

    return lie


def one_entry(value, name):
    def lie(content):
        arrays = {n: a.copy() for n, a in from_record(content["arrays"]).items()}
        key = list(arrays)[name]
        arrays[key].reshape(len(arrays[key]), -1)[:, 0] = value
        content["arrays"] = to_record(arrays)

    return lie


def as_dtype(dtype):
    def lie(content):
        arrays = from_record(content["arrays"])
        content["arrays"] = ArrayRecord({n: Array(a.astype(dtype)) for n, a in arrays.items()})

    return lie


def as_bytes(make, **claims):
    """Replace the bytes of arrays, or their description."""

    def lie(content):
        record = ArrayRecord()
        for name, array in from_record(content["arrays"]).items():
            honest = Array(array)
            fields = {"dtype": "float32", "shape": array.shape, "stype": "numpy.ndarray"}
            record[name] = Array(**{**fields, **claims}, data=make(honest.data))
        content["arrays"] = record

    return lie


def metric(name, make):
    def lie(content):
        record = dict(content["metrics"])
        record[name] = make(record.get(name))
        content["metrics"] = MetricRecord({k: v for k, v in record.items() if v is not None})

    return lie


def arrays_named(change):
    def lie(content):
        content["arrays"] = change(dict(content["arrays"]))

    return lie


LIES = {
    **{f"scaled by {factor:g}": scaled(factor) for factor in (1e6, 1e10, 1e20, 1e30, 1e38)},
    **{f"{v:g} in array {n}": one_entry(v, n) for v, n in product(HUGE, range(6))},
    **{f"{v} in array {n}": one_entry(v, n) for v, n in product([np.nan, np.inf, -np.inf], (0, 5))},
    **{f"as {d}": as_dtype(d) for d in ("f8", "f2", "i4", "u1", "?", "c8", "S3", ">f4")},
    "a pickle": as_bytes(lambda data: pickle.dumps(Payload())),
    "a pickle after the header": as_bytes(lambda data: data + pickle.dumps(Payload())),
    "a pickled array": as_bytes(lambda data: data.replace(b"<f4", b"|O ")),
    "no bytes": as_bytes(lambda data: b""),
    "a byte less": as_bytes(lambda data: data[:-1]),
    "a megabyte more": as_bytes(lambda data: data + bytes(2**20)),
    "another header": as_bytes(lambda data: data.replace(b"(", b"[", 1)),
    "a huge shape": as_bytes(lambda data: data, shape=(10**12, 10**6)),
    "a negative shape": as_bytes(lambda data: data, shape=(-1,)),
    "an unknown type": as_bytes(lambda data: data, dtype="__import__('os')"),
    "another serialiser": as_bytes(lambda data: data, stype="pickle"),
    "no arrays": arrays_named(lambda arrays: ArrayRecord()),
    "another name": arrays_named(lambda a: ArrayRecord({"../x": a.popitem()[1], **a})),
    "one array less": arrays_named(lambda arrays: ArrayRecord(dict(list(arrays.items())[1:]))),
    "no record of arrays": lambda content: content.pop("arrays"),
    "no metrics": lambda content: content.pop("metrics"),
    "metrics as configuration": lambda content: content.update(metrics=ConfigRecord()),
    "two records of arrays": lambda content: content.update(more=ArrayRecord()),
    "other clients": metric("clients", lambda clients: [c + 1 for c in clients]),
    "clients below zero": metric("clients", lambda clients: [-c - 1 for c in clients]),
    "all clients": metric("clients", lambda clients: list(range(8))),
    "huge counts": metric("num_examples", lambda counts: [2**31] * len(counts)),
    "no utterance": metric("num_examples", lambda counts: [0] * len(counts)),
    "counts below zero": metric("num_examples", lambda counts: [-1] * len(counts)),
    "half an utterance": metric("num_examples", lambda counts: [0.5] * len(counts)),
    "fewer counts": metric("num_examples", lambda counts: counts[1:]),
    "infinite losses": metric("loss", lambda losses: [float("inf")] * len(losses)),
    "losses below zero": metric("loss", lambda losses: [-1.0] * len(losses)),
    "no loss": metric("loss", lambda losses: None),
}


def silent(content):
    content.clear()


def lying(lie):
    """Return a change of the hostile node's reply; the node never sends tables."""

    def change(message, reply):
        if message.metadata.dst_node_id == LIAR:
            reply.content.pop("evaluation")
            if "arrays" in reply.content:
                lie(reply.content)
        return reply

    return change


def run(lie, made, folder):
    outcome = federate(RealNodes(folder, lying(lie)), made, folder, "cpu")
    rows = [{k: v for k, v in vars(row).items() if k != "rejections"} for row in outcome.rounds]
    for row in rows:
        row["seconds"] = 0.0
    return repr(rows), outcome


@pytest.fixture
def honest(remote, tmp_path):  # noqa: F811
    return run(silent, remote("h"), tmp_path)[0], models(tmp_path / "h")


def models(folder):
    return [a for _, m in Transcript(folder / "t").global_models() for a in m.values()]


def test_there_are_many_lies():
    assert len(LIES) >= 60


@pytest.mark.parametrize("name", LIES)
def test_a_lie_does_not_change_the_honest_run(name, remote, honest, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    rows, outcome = run(LIES[name], remote("l"), tmp_path)
    assert rows == honest[0]
    assert all(map(np.array_equal, models(tmp_path / "l"), honest[1]))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("factor", [1e20, 1e30])
def test_a_scaled_update_is_rejected_by_client_and_round(factor, remote, tmp_path, capsys):  # noqa: F811
    run(scaled(factor), remote("l"), tmp_path)
    said = capsys.readouterr().err
    assert "round 1: the update of client" in said and ", node 12) is rejected: its norm is" in said


def test_a_huge_central_update_is_in_no_transcript(remote, tmp_path):  # noqa: F811
    _, outcome = run(one_entry(3.4e38, 0), remote("l", CENTRAL), tmp_path)
    chunks = Transcript(tmp_path / "l" / "t")
    assert max(np.abs(array).max() for chunk in chunks for array in chunk.arrays.values()) < 1
    assert sum(row.rejections.get("size", 0) for row in outcome.rounds)


def test_an_error_with_any_text_is_a_failure_of_its_node(remote, honest, tmp_path):  # noqa: F811
    def fail(message, reply):
        if message.metadata.dst_node_id == LIAR:
            text = "\x1b[2J[red]\ud800\x00\n" * 10_000
            return Message(Error(0, text), reply_to=message)
        return reply

    outcome = federate(RealNodes(tmp_path, fail), remote("l"), tmp_path, "cpu")
    assert all(map(np.array_equal, models(tmp_path / "l"), honest[1]))
    assert len(outcome.rounds) == len(honest[1]) // 6 - 1


def test_a_model_with_huge_weights_gives_no_finite_scores():
    for config in (MLP, ATTENTION):
        finite = FiniteScores(config, 12)
        start = initial_arrays(config, 12, 4, 0)
        assert finite(start) and finite({n: a * np.float32(100) for n, a in start.items()})
        assert not finite({n: a + np.float32(1e16) for n, a in start.items()})
        assert not finite({n: a * np.float32(np.nan) for n, a in start.items()})


def test_a_diverged_model_is_not_kept(tmp_path, monkeypatch):
    made = examples.federation(tmp_path / "t", rounds=6, algorithm="fedsgd")
    made = replace(made, checkpoint=tmp_path / "c")
    finite = [True] * 4 + [False]
    monkeypatch.setattr(
        "fedser.server.rounds.federate.FiniteScores.__call__", lambda *_: finite.pop(0)
    )
    with pytest.raises(Suspended, match=r"round 5: the model .* is not kept; .*/c/state\.safe"):
        federate(LocalGrid(client_app), made, tmp_path, "cpu")
    assert (tmp_path / "c" / STATE).exists()
    monkeypatch.undo()
    resumed = federate(LocalGrid(client_app), made, tmp_path, "cpu")
    assert [row.round for row in resumed.rounds] == list(range(1, 7))
