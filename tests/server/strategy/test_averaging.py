import math
import pickle
from functools import partial
from io import BytesIO

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedser.client.app import app as client_app
from fedser.client.models.mlp import Mlp
from fedser.client.privacy.base import Mechanism, NoMechanism
from fedser.client.privacy.local import LocalDP
from fedser.client.secure_aggregation.session import REFUSAL
from fedser.client.training.request import TrainRequest
from fedser.common.errors import Suspended
from fedser.conf.training_keys import TrainingConfig
from fedser.server.grids.local import LocalGrid
from fedser.server.strategy.aggregate import Aggregate, WeightedMean
from fedser.server.strategy.averaging import TappedAveraging
from fedser.server.transcript.transcript import RecordedUpdates

START = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2, np.float32)}
SIZES = {0: 5, 2: 10, 3: 1, 7: 4}
HELD = [5, 0, 10, 1, 0, 0, 0, 4]


def update(client: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(client)
    return {name: rng.normal(size=a.shape).astype(np.float32) for name, a in START.items()}


def request(server_round: int, clients: tuple[int, ...], mechanism: Mechanism) -> TrainRequest:
    return TrainRequest(
        "f",
        server_round,
        0,
        clients,
        "",
        "cpu",
        "fedavg",
        Mlp(),
        TrainingConfig(),
        mechanism,
    )


class Nodes(LocalGrid):
    """A grid of several nodes; the test makes up their replies."""

    def __init__(self, count: int) -> None:
        super().__init__(client_app)
        self.count = count

    def get_node_ids(self):
        return range(11, 11 + self.count)

    def send(self, messages):
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"m{number}"
        return messages


def honest(message: Message) -> dict:
    clients = list(
        TrainRequest.from_json(message.content.config_records["config"]["request"]).clients
    )
    arrays = {n: np.stack([update(c)[n] for c in clients]) for n in START}
    metrics = {
        "clients": clients,
        "num_examples": [SIZES[c] for c in clients],
        "loss": [1.0] * len(clients),
    }
    return {"arrays": arrays, "metrics": metrics}


def answer(message: Message, arrays: dict, metrics: dict) -> Message:
    arrays = {n: a if isinstance(a, Array) else Array(np.asarray(a)) for n, a in arrays.items()}
    record = ArrayRecord(arrays)
    return Message(
        RecordDict({"arrays": record, "metrics": MetricRecord(metrics)}), reply_to=message
    )


def joined(parts):
    """Join the chunks of a round to one record of updates."""
    names = ("round", "client", "num_examples")
    columns = ([np.zeros(0, np.int64), *(getattr(p, name) for p in parts)] for name in names)
    arrays = {
        n: np.concatenate([np.zeros((0, *a.shape), np.float32), *(p.arrays[n] for p in parts)])
        for n, a in START.items()
    }
    return RecordedUpdates(*map(np.concatenate, columns), arrays)


class Round:
    """One round of the strategy over two nodes; the test changes their replies."""

    def __init__(
        self,
        change=lambda message, reply: reply,
        step=1.0,
        nodes=2,
        cohort=tuple(SIZES),
        mechanism=NoMechanism(),  # noqa: B008
        aggregate=None,
    ):
        self.tapped = []
        self.strategy = TappedAveraging(
            lambda r: cohort,
            partial(request, mechanism=mechanism),
            aggregate or WeightedMean(mechanism),
            step,
            HELD,
            lambda r, model, parts: self.tapped.append((r, model, joined(parts))),
        )
        grid = Nodes(nodes)
        arrays = ArrayRecord({n: Array(a) for n, a in START.items()})
        sent = grid.send(self.strategy.configure_train(1, arrays, ConfigRecord(), grid))
        self.sent = sent
        replies = [change(m, answer(m, **honest(m))) for m in sent]
        replies = [r if isinstance(r, list) else [r] for r in replies if r is not None]
        aggregated, _ = self.strategy.aggregate_train(
            1, [r for some in replies[::-1] for r in some]
        )
        self.model = {n: a.numpy() for n, a in aggregated.items()}
        self.summary = self.strategy.last_round


def mean_of(clients, step=1.0):
    total = sum(SIZES[c] for c in clients)
    return {
        n: a + step * sum(SIZES[c] / total * update(c)[n] for c in clients)
        for n, a in START.items()
    }


def check_model(round_, expected):
    for name in START:
        np.testing.assert_allclose(round_.model[name], expected[name], atol=1e-6)


def test_clients_are_averaged_by_their_utterances():
    round_ = Round()
    assert [m.metadata.dst_node_id for m in round_.sent] == [11, 12]
    shares = [
        TrainRequest.from_json(m.content.config_records["config"]["request"]).clients
        for m in round_.sent
    ]
    assert shares == [(0, 2), (3, 7)]
    check_model(round_, mean_of(SIZES))
    assert (round_.summary.clients, round_.summary.rejected) == (4, 0)
    assert round_.summary.train_loss == 1.0
    norms = [math.sqrt(sum(np.square(u).sum() for u in update(c).values())) for c in SIZES]
    assert round_.summary.update_norm_max == pytest.approx(max(norms), rel=1e-5)
    assert round_.summary.update_norm_mean == pytest.approx(np.mean(norms), rel=1e-5)


def test_the_result_does_not_depend_on_the_number_of_nodes():
    models = [Round(nodes=n).model for n in (1, 2, 4, 9)]
    for model in models[1:]:
        assert all(np.array_equal(model[n], models[0][n]) for n in START)


def test_fedsgd_steps_against_the_mean_gradient():
    check_model(Round(step=-0.1), mean_of(SIZES, step=-0.1))


def test_the_tap_sees_each_update_with_its_sender():
    ((server_round, model, releases),) = Round().tapped
    assert server_round == 1 and np.array_equal(model["w"], START["w"])
    assert releases.client.tolist() == sorted(SIZES)
    assert releases.num_examples.tolist() == [SIZES[c] for c in sorted(SIZES)]
    for row, client in enumerate(sorted(SIZES)):
        np.testing.assert_array_equal(releases.arrays["w"][row], update(client)["w"])


def spoil(client, value):
    def change(message, reply):
        fields = honest(message)
        if client in fields["metrics"]["clients"]:
            fields["arrays"]["w"][fields["metrics"]["clients"].index(client), 0, 0] = value
        return answer(message, **fields)

    return change


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_is_counted_and_left_out(value):
    round_ = Round(spoil(2, value))
    check_model(round_, mean_of([0, 3, 7]))
    assert (round_.summary.clients, round_.summary.rejected) == (3, 1)
    assert round_.strategy.last_released == sorted(SIZES)  # it left the device anyway


def alter(**changes):
    def change(message, reply):
        if message.metadata.dst_node_id != 12:
            return reply
        fields = honest(message)
        for key, value in changes.items():
            fields[key.split("_")[0]][key.split("_", 1)[1]] = value
        return answer(message, **fields)

    return change


def only(node, change):
    return lambda message, reply: (
        change(message, reply) if message.metadata.dst_node_id == node else reply
    )


def from_node(node, reply):
    reply.metadata.__dict__["_src_node_id"] = node
    return reply


class Foreign:
    """An object that fails the test when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a reply was unpickled",))


def raw(data, dtype="float32", shape=(2, 2, 3), stype="numpy.ndarray"):
    return Array(dtype, shape, stype, data)


def npy(array, **kwargs):
    buffer = BytesIO()
    np.save(buffer, array, **kwargs)
    return buffer.getvalue()


def npz(**arrays):
    buffer = BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def header(text):
    text = text.ljust(118).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


W = np.zeros((2, 2, 3), np.float32)
HUGE = header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }")
NESTED = header("{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 60)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (alter(arrays_w=np.zeros((2, 3, 3), np.float32)), "shape"),
        (alter(arrays_w=np.zeros((1, 2, 3), np.float32)), "shape"),
        (alter(arrays_w=np.float32(1)), "shape"),
        (alter(arrays_w=raw(npy(W), shape=(10**12, 10**12))), "shape"),
        (alter(arrays_w=W.astype(np.float64)), "dtype"),
        (alter(arrays_w=W.astype(np.float16)), "dtype"),
        (alter(arrays_w=W.astype(np.int32)), "dtype"),
        (alter(arrays_w=W.astype(complex)), "dtype"),
        (alter(arrays_w=W.astype(">f4")), "dtype"),
        (alter(arrays_w=W.astype("S4")), "dtype"),
        (alter(arrays_w=raw(npy(np.full((2, 2, 3), Foreign()), allow_pickle=True))), "encoding"),
        (alter(arrays_w=raw(pickle.dumps(Foreign()))), "encoding"),
        (alter(arrays_w=raw(npz(w=W))), "encoding"),
        (alter(arrays_w=raw(npy(W), stype="torch")), "encoding"),
        (alter(arrays_w=raw(npy(W.astype(np.float64)))), "encoding"),
        (alter(arrays_w=raw(npy(W.reshape(2, 6)))), "encoding"),
        (alter(arrays_w=raw(npy(np.asfortranarray(W)))), "encoding"),
        (alter(arrays_w=raw(npy(W)[:-1])), "encoding"),
        (alter(arrays_w=raw(npy(W) + bytes(10**7))), "encoding"),
        (alter(arrays_w=raw(b"")), "encoding"),
        (alter(arrays_w=raw(HUGE)), "encoding"),
        (alter(arrays_w=raw(NESTED)), "encoding"),
        (alter(arrays_extra=np.zeros((2, 1), np.float32)), "records"),
        (lambda message, reply: answer(message, {"w": W}, honest(message)["metrics"]), "records"),
        (lambda message, reply: Message(RecordDict(), reply_to=message), "records"),
        (
            lambda message, reply: Message(
                RecordDict({"arrays": MetricRecord(), "metrics": ArrayRecord()}), reply_to=message
            ),
            "records",
        ),
        (alter(metrics_clients=[0, 2]), "clients"),
        (alter(metrics_clients=[3, 3]), "clients"),
        (alter(metrics_clients=[7, 3]), "clients"),
        (alter(metrics_clients=[3]), "clients"),
        (alter(metrics_clients=3), "clients"),
        (alter(metrics_clients=[3.5, 7.0]), "clients"),
        (alter(metrics_clients=[3] * 10**6), "clients"),
        (alter(metrics_clients=[2**70, 7]), "clients"),
        (alter(metrics_num_examples=[1]), "records"),
        (alter(metrics_num_examples=4), "records"),
        (alter(metrics_num_examples=[0, 5]), "num_examples"),
        (alter(metrics_num_examples=[-1, -(2**63)]), "num_examples"),
        (alter(metrics_num_examples=[2, 2**62]), "num_examples"),  # they hold 1 and 4
        (alter(metrics_num_examples=[2**70, 2**70]), "num_examples"),
        (alter(metrics_num_examples=[1.0, 4.0]), "num_examples"),
        (alter(metrics_num_examples=[np.nan, np.inf]), "num_examples"),
        (alter(metrics_loss=[1.0]), "records"),
        (alter(metrics_loss=1.0), "records"),
        (alter(metrics_loss=[np.nan, np.inf]), "loss"),
        (alter(metrics_loss=[-1.0, 1e308]), "loss"),
        (lambda message, reply: None, "missing"),
        (lambda message, reply: Message(Error(2, "no such file"), reply_to=message), "failed"),
        (lambda message, reply: Message(Error(3, "expired"), reply_to=message), "failed"),
        (lambda message, reply: Message(Error(2, f"E: {REFUSAL}"), reply_to=message), "refused"),
    ],
)
def test_an_unusable_reply_does_not_move_the_model(change, reason):
    round_ = Round(only(12, change))
    check_model(round_, mean_of([0, 2]))
    assert (round_.summary.clients, round_.summary.rejected) == (2, 2)
    assert round_.summary.rejections == {reason: 2}
    assert round_.summary.train_loss == 1.0
    assert {0, 2} <= set(round_.strategy.last_released)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (alter(metrics_num_examples=[0, 4]), "num_examples"),
        (alter(metrics_num_examples=[2, 4]), "num_examples"),
        (alter(metrics_loss=[np.nan, 1.0]), "loss"),
        (alter(metrics_loss=[1e39, 1.0]), "loss"),
        (spoil(3, np.nan), "not_finite"),
    ],
)
def test_a_rejected_client_does_not_affect_others_of_its_node(change, reason):
    round_ = Round(change)
    check_model(round_, mean_of([0, 2, 7]))
    assert round_.summary.rejections == {reason: 1}
    assert round_.tapped[0][2].client.tolist() == [0, 2, 7]


def test_only_the_first_reply_to_a_message_counts():
    def again(message, reply):
        fields = honest(message)
        fields["arrays"]["w"] = fields["arrays"]["w"] + 9
        replay = answer(message, **fields)
        return [reply, replay]

    round_ = Round(only(12, again))
    check_model(round_, mean_of(SIZES))
    assert (round_.summary.clients, round_.summary.rejected) == (4, 0)
    assert round_.summary.rejections == {"duplicate": 1}

    def of_another(message, reply):
        """Answer the other node's message, a late message, and one that never existed."""
        made_up = [from_node(12, answer(message, **honest(message))) for _ in range(3)]
        for number, reply_to in enumerate(("m0", "m17", "")):
            made_up[number].metadata.__dict__["_reply_to_message_id"] = reply_to
        return [*made_up, reply]

    round_ = Round(only(12, of_another))
    check_model(round_, mean_of(SIZES))
    assert round_.summary.rejections == {"unasked": 3}


def test_an_error_never_replaces_an_update():
    def both(message, reply):
        return [Message(Error(3, "expired"), reply_to=message), reply]

    round_ = Round(only(12, both))
    check_model(round_, mean_of(SIZES))
    assert round_.summary.rejections == {"duplicate": 1}
    assert round_.strategy.last_released == sorted(SIZES)
    lost = Round(only(12, lambda m, r: from_node(1, Message(Error(3, "expired"), reply_to=m))))
    assert lost.summary.rejections == {"failed": 2}


def test_the_ledger_counts_updates_that_may_have_left():
    late = Round(lambda m, reply: None if m.metadata.dst_node_id == 12 else reply)
    assert late.strategy.last_released == sorted(SIZES)
    for code, counted in ((2, [0, 2]), (3, list(SIZES)), (5, list(SIZES))):
        failed = Round(
            lambda m, reply, code=code: (
                reply
                if m.metadata.dst_node_id == 11
                else Message(Error(code, "failed"), reply_to=m)
            )
        )
        assert failed.strategy.last_released == counted


def test_a_round_without_replies_keeps_the_model():
    round_ = Round(lambda message, reply: None)
    check_model(round_, START)
    assert (round_.summary.clients, round_.summary.rejected) == (0, 4)
    assert math.isnan(round_.summary.update_norm_mean) and math.isnan(round_.summary.train_loss)
    ((_, _, releases),) = round_.tapped
    assert len(releases) == 0


def test_an_update_above_the_norm_bound_is_scaled_down(monkeypatch):
    bound = sorted(np.sqrt(sum(np.square(u).sum() for u in update(c).values())) for c in SIZES)[1]
    bound = 1.0001 * float(bound)  # the second smallest just passes
    monkeypatch.setattr(NoMechanism, "norm_bound", lambda self, model: bound)
    round_ = Round()
    total = sum(SIZES.values())
    expected = {n: a.copy() for n, a in START.items()}
    for client, size in SIZES.items():
        norm = np.sqrt(sum(np.square(u).sum() for u in update(client).values()))
        for name in START:
            expected[name] += size / total * min(1, bound / norm) * update(client)[name]
    check_model(round_, expected)
    assert round_.summary.clip_fraction == 0.5
    (_, _, seen), *_ = round_.tapped
    assert np.array_equal(seen.arrays["w"][0], update(0)["w"])  # the tap sees what arrived


def rounds_of(replies, cohorts):
    """Run rounds of one strategy; the function `replies` makes up the replies."""
    grid, numbers = Nodes(2), iter(range(100))
    strategy = TappedAveraging(
        lambda r: cohorts[r - 1],
        partial(request, mechanism=NoMechanism()),
        WeightedMean(NoMechanism()),
        1.0,
        HELD,
        lambda *_: None,
    )
    for server_round in range(1, len(cohorts) + 1):
        arrays = ArrayRecord({n: Array(a) for n, a in START.items()})
        sent = strategy.configure_train(server_round, arrays, ConfigRecord(), grid)
        for message in sent:
            message.metadata.__dict__["_message_id"] = f"m{next(numbers)}"
        strategy.aggregate_train(server_round, [replies(server_round, m) for m in sent])
        yield strategy.last_round


def test_a_run_is_suspended_after_three_useless_rounds():
    def fail(server_round, message):
        return Message(Error(2, "no\nsuch \x1b[31mfile"), reply_to=message)

    text = (
        r"^round 3: for 3 rounds no update could be used \(4 failed; the first error: no such "
        r"\[31mfile\); repair the nodes, then go on$"
    )
    with pytest.raises(Suspended, match=text):
        list(rounds_of(fail, [list(SIZES)] * 4))

    def fail_mostly(server_round, message):
        reply = answer(message, **honest(message))
        return reply if server_round == 3 else fail(server_round, message)

    cohorts = [list(SIZES)] * 3 + [[]] * 3 + [list(SIZES)] * 2  # nobody asked, nobody failed
    rows = list(rounds_of(fail_mostly, cohorts))
    assert [row.clients for row in rows] == [0, 0, 4, 0, 0, 0, 0, 0]
    assert [row.rejections for row in rows[2:5]] == [{}, {}, {}]


def test_a_round_with_an_empty_cohort_is_aggregated():
    def noise(server_round, releases, model):
        assert len(releases) == 0
        return Aggregate(
            {n: np.full_like(a, 0.25) for n, a in model.items()}, np.zeros(0), 0.1, math.nan, 2.0
        )

    round_ = Round(cohort=(), aggregate=noise, step=2.0)
    assert round_.sent == [] and round_.strategy.last_released == []
    check_model(round_, {n: a + 0.5 for n, a in START.items()})
    assert (round_.summary.clients, round_.summary.rejected) == (0, 0)
    assert (round_.summary.noise_stddev, round_.summary.clipping_norm) == (0.1, 2.0)
    ((_, _, seen),) = round_.tapped
    assert len(seen) == 0 and seen.arrays["w"].shape == (0, 2, 3)


def test_the_aggregation_gets_accepted_updates_and_the_model():
    got = []

    def keep(server_round, received, model):
        got.append((server_round, joined([part.releases for part in received]), model))
        return Aggregate({}, np.ones(3), 0.0, 0.0)

    round_ = Round(spoil(2, np.nan), aggregate=keep)
    ((server_round, releases, model),) = got
    assert server_round == 1 and releases.client.tolist() == [0, 3, 7]
    assert all(np.array_equal(model[n], START[n]) for n in START)
    check_model(round_, START)  # an aggregate without a mean moves nothing


def test_clients_weigh_the_same_if_counts_are_withheld():
    mechanism = LocalDP(False, [["w", "b"]], [100.0], [1.0])
    updates = [update(client) for client in SIZES]
    expected = {n: a + np.mean([u[n] for u in updates], axis=0) for n, a in START.items()}
    # the counts in the replies are ignored
    check_model(Round(mechanism=mechanism), expected)
    assert Round(mechanism=mechanism).tapped[0][2].num_examples.tolist() == [1, 1, 1, 1]
    shared = LocalDP(True, [["w", "b"]], [100.0], [1.0])
    check_model(Round(mechanism=shared), mean_of(SIZES))
