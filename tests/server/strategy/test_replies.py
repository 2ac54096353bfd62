"""Thousands of generated hostile replies: none changes the model or the figures."""

from collections import Counter
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from fedser.client.privacy.base import NoMechanism
from fedser.client.secure_aggregation.session import REFUSAL
from fedser.client.training.request import Hosting
from fedser.common.seeds import Reproducible
from fedser.conf.training_keys import TrainingConfig
from fedser.server.federation.remote_clients import RemoteClients
from fedser.server.privacy.plan import PrivacyPlan
from fedser.server.strategy.aggregate import NoisedMean, WeightedMean
from fedser.server.strategy.averaging import TappedAveraging
from fedser.server.strategy.limits import UpdateLimit
from fedser.server.strategy.replies import REASONS, TABLES
from tests.examples import CENTRAL
from tests.server.strategy.test_averaging import HELD, SIZES, START, Nodes, honest, request

PLAN = PrivacyPlan(
    replace(CENTRAL, epsilon=None, noise_multiplier=1.0),
    0.5,
    4,
    num_clients=8,
    shared={name: array.size for name, array in START.items()},
)
FURTHER = {"evaluation", "duplicate", "unasked"}
# of secure aggregation and of encrypted sums: tests/server/rounds/test_secure.py, test_encrypted.py
HIDDEN = {"vanished", "unopened", "ciphertext"}
NODE_TABLES = {"validation": [3, 1, *[0] * 14], "test": [2, 0, 0, 1, 0, 4, *[0] * 10]}
REMOTE = RemoteClients(
    ["c"] * 8,
    ["a", "-", "a", "b", "-", "-", "-", "b"],
    [4] * 8,
    1,
    {
        11: Hosting(((0, "a", 0), (2, "a", 1)), ("x",), "none"),
        12: Hosting(((3, "b", 0), (7, "b", 1)), ("y",), "none"),
    },
    dict.fromkeys((11, 12), {name: sum(counts) for name, counts in NODE_TABLES.items()}),
)

numbers = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.sampled_from([0, -1, 1e308, float("nan"), float("inf"), 2**62, 2**70]),
)
anything = st.one_of(
    numbers, st.lists(st.integers(), max_size=4), st.lists(st.floats(), max_size=4)
)
not_two = anything.filter(lambda said: not isinstance(said, list) or len(said) != 2)
lies = st.integers(-(2**63), 0) | st.integers(max(HELD) + 1, 2**70)
wrong_losses = st.sampled_from([np.nan, np.inf, -np.inf, -1.0, 1e39, 1e308])
never_finite = st.sampled_from([np.nan, np.inf, -np.inf])
too_large = st.sampled_from([1e5, -1e20, 3.4e38, -3.4e38])
KINDS = ["dtype", "shape", "bytes", "large"]
other_shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def wrong_array(draw, like):
    """Draw an array that is not k updates in the shape of the model."""
    kind = draw(st.sampled_from([*KINDS, "cut", "longer", "stype", "values"]))
    good = Array(np.zeros(like, np.float32))
    if kind == "dtype":
        dtypes = ["f8", "f2", "i4", "i8", "u1", "?", "c8", "S3", "U2", ">f4", "M8[s]"]
        return Array(np.zeros(like, draw(st.sampled_from(dtypes))))
    if kind == "shape":
        shape = draw(other_shapes.filter(lambda shape: shape != like))
        return Array(np.zeros(shape, np.float32))
    if kind in ("values", "large"):
        array = np.zeros(like, np.float32)
        array.reshape(len(array), -1)[:, draw(st.integers(0, array[0].size - 1))] = draw(
            never_finite if kind == "values" else too_large
        )
        return Array(array)
    if kind == "stype":
        return Array("float32", like, draw(st.text(max_size=5)), good.data)
    claimed = draw(st.sampled_from([like, (10**12,), (-1,), ()]))
    data = {
        "bytes": draw(st.binary(max_size=200)),
        "cut": good.data[: draw(st.integers(0, len(good.data) - 1))],
        "longer": good.data + draw(st.binary(min_size=1, max_size=50)),
    }[kind]
    return Array("float32", claimed, "numpy.ndarray", data)


@st.composite
def wrong_content(draw, fields):
    """Draw the fields of a reply; one or more of them are wrong for every client."""
    arrays = {name: Array(array) for name, array in fields["arrays"].items()}
    metrics = dict(fields["metrics"])
    kinds = st.sampled_from(["array", "array", "names", "clients", "sizes", "sizes", "losses"])
    for spoilt in draw(st.sets(kinds, min_size=1, max_size=2)):
        if spoilt == "array":
            name = draw(st.sampled_from(list(START)))
            arrays[name] = draw(wrong_array((2, *START[name].shape)))
        elif spoilt == "names":
            if draw(st.booleans()):
                arrays[draw(st.text(max_size=3).filter(lambda n: n not in START))] = arrays["w"]
            else:
                arrays.pop(draw(st.sampled_from(list(START))), None)
        elif spoilt == "clients":  # the second node's, which is hostile
            metrics["clients"] = draw(anything.filter(lambda said: said != [3, 7]))
        elif spoilt == "losses":
            metrics["loss"] = draw(st.lists(wrong_losses, min_size=2, max_size=2) | not_two)
        else:
            metrics["num_examples"] = draw(st.lists(lies, min_size=2, max_size=2) | not_two)
    return arrays, metrics


@st.composite
def wrong_evaluation(draw):
    """Draw a record that does not hold the tables of the node."""
    kind = draw(st.sampled_from(["none", "record", "names", "table", "table", "table"]))
    if kind == "none":
        return None
    if kind == "record":
        return draw(st.sampled_from([ArrayRecord, ConfigRecord]))()
    if kind == "names":
        names = st.sets(st.sampled_from([*TABLES, "other"]) | st.text(max_size=3))
        return MetricRecord(
            dict.fromkeys(draw(names.filter(lambda n: n != {*TABLES})), NODE_TABLES["test"])
        )
    name = draw(st.sampled_from(TABLES))
    sixteen = st.lists(numbers.filter(lambda n: isinstance(n, int)), min_size=16, max_size=16)
    wrong = sixteen.filter(lambda counts: min(counts) < 0 or sum(counts) != sum(NODE_TABLES[name]))
    floats = st.lists(st.floats(), min_size=16, max_size=16)
    moved = st.permutations([-1, 1 + sum(NODE_TABLES[name]), *[0] * 14])
    return MetricRecord({**NODE_TABLES, name: draw(anything | wrong | floats | moved)})


@st.composite
def hostile_replies(draw, message, others):
    """Draw the replies of a hostile node in place of one reply, with their addresses."""
    replies = []
    for _ in range(draw(st.sampled_from([1, 1, 1, 1, 0, 2, 4]))):
        kind = draw(st.sampled_from([*["content"] * 5, "error", "records", "address"]))
        if kind == "error":
            reply = Message(Error(draw(st.integers(0, 9)), draw(st.text())), reply_to=message)
        elif kind == "records":
            record = draw(st.sampled_from([ArrayRecord, MetricRecord, ConfigRecord]))
            names = draw(st.sets(st.sampled_from(["arrays", "metrics", "x"])))
            content = RecordDict({name: record() for name in names})
            reply = Message(content, reply_to=message)
        elif kind == "address":  # honest, but it answers another message
            fields = honest(draw(st.sampled_from(others)))
            reply = Message(packed(**fields), reply_to=message)
            answers = draw(st.sampled_from(["m0", "m9", "", "0"]))
            reply.metadata.__dict__["_reply_to_message_id"] = answers
        else:
            content = packed(*draw(wrong_content(honest(message))))
            if (tables := draw(wrong_evaluation())) is not None:
                content["evaluation"] = tables
            reply = Message(content, reply_to=message)
        replies.append(reply)
    return replies


def packed(arrays, metrics):
    arrays = {n: a if isinstance(a, Array) else Array(a) for n, a in arrays.items()}
    return RecordDict({"arrays": ArrayRecord(arrays), "metrics": MetricRecord(metrics)})


def not_a_number(message):
    fields = honest(message)
    arrays = {name: np.full_like(array, np.nan) for name, array in fields["arrays"].items()}
    return Message(packed(arrays, fields["metrics"]), reply_to=message)


def refused(message):
    return Message(Error(2, f"Refused: {REFUSAL}"), reply_to=message)


def without_loss(message):
    fields = honest(message)
    losses = [float("nan")] * len(fields["metrics"]["loss"])
    return Message(
        packed(fields["arrays"], {**fields["metrics"], "loss": losses}), reply_to=message
    )


def truthful(message):
    content = packed(**honest(message))
    content["evaluation"] = MetricRecord(NODE_TABLES)
    return Message(content, reply_to=message)


def run_round(aggregate, remote, make):
    """Run one round; `make` maps the messages to the replies. The first node is honest."""
    grid = Nodes(2)
    strategy = TappedAveraging(
        lambda r: list(SIZES),
        partial(request, mechanism=NoMechanism()),
        aggregate,
        1.0,
        HELD,
        lambda *_: None,
        remote=remote,
        limit=UpdateLimit("fedavg", TrainingConfig(learning_rate=10.0), NoMechanism(), HELD),
    )
    scores = strategy.scores = Future() if remote else None
    arrays = ArrayRecord({n: Array(a) for n, a in START.items()})
    sent = grid.send(strategy.configure_train(1, arrays, ConfigRecord(), grid))
    model, _ = strategy.aggregate_train(1, make(sent))
    confusion = scores.result(0).confusion.ravel().tolist() if remote else []
    return {name: array.numpy() for name, array in model.items()}, confusion, strategy


@pytest.mark.parametrize(
    ("mechanism", "remote", "examples"), [("none", REMOTE, 520), ("central", None, 200)]
)
def test_no_hostile_reply_moves_the_model_or_stops_the_server(mechanism, remote, examples, capsys):
    def aggregate():
        if mechanism == "none":
            return WeightedMean(NoMechanism())
        return NoisedMean(PLAN, Reproducible)

    expected, figures, alone = run_round(aggregate(), remote, lambda sent: [truthful(sent[0])])
    assert figures == (NODE_TABLES["test"] if remote else [])
    without_tables = {"evaluation": 1} if remote else {}
    assert alone.last_round.rejections == {"missing": 2, **without_tables}
    counted: Counter[str] = Counter()

    @seed(0)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def check(data):
        def make(sent):
            hostile = data.draw(hostile_replies(sent[1], sent))
            counted["replies"] += len(hostile)
            mixed = [truthful(sent[0]), *hostile]
            return data.draw(st.permutations(mixed))

        model, counts, strategy = run_round(aggregate(), remote, make)
        row = strategy.last_round
        assert counts == figures and row.rejections.get("evaluation", 0) == len(without_tables)
        assert all(np.array_equal(model[name], expected[name]) for name in START)
        assert (row.clients, row.rejected) == (2, 2)
        assert set(row.rejections) <= set(REASONS)
        assert sum(n for reason, n in row.rejections.items() if reason not in FURTHER) == 2
        counted.update(row.rejections)

    check()
    replies = counted.pop("replies")
    with capsys.disabled():
        print(f"\n{replies} hostile replies, {mechanism}: {dict(counted)}")
    assert replies >= examples
    if examples > 500:  # so many that each reason occurs; the rarest are added
        for change in (not_a_number, without_loss, refused):
            *_, strategy = run_round(
                aggregate(),
                remote,
                lambda sent, change=change: [truthful(sent[0]), change(sent[1])],
            )
            counted.update(strategy.last_round.rejections)
        assert replies >= 1000 and set(counted) == set(REASONS) - HIDDEN
