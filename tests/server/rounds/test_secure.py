"""Rounds whose server learns sums only, with nodes that vanish in any step."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Error, Message, UserConfig
from scipy.stats import kstest

from fedser.client import app as client_module
from fedser.client.app import app as client_app
from fedser.client.privacy.rounded_gaussian import grid_step
from fedser.common.arrays import l2_norm
from fedser.common.errors import Suspended, UserError
from fedser.server.grids.local import DirectGrid, LocalGrid, node_context
from fedser.server.privacy.accountant import largest
from fedser.server.rounds.federate import federate
from fedser.server.strategy import averaging
from fedser.server.transcript.transcript import Transcript
from tests.examples import DISTRIBUTED, SHARED, NoNoise, federation

NODES = 8
STEPS = ("query.advertise", "query.share", "train", "query.confirm", "query.unmask")


class Nodes(DirectGrid):
    """Eight nodes with one client each; `vanish` names who answers no more from a step on.

    A step is a round and a kind of message.
    """

    def __init__(self, vanish=None):
        super().__init__(1)
        self._vanish, self._replies, self.asked = vanish or {}, {}, []

    def get_node_ids(self):
        return range(1, NODES + 1)

    def pull_messages(self, message_ids):
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(self, messages, *, timeout=None):
        return self.pull_messages(self.push_messages(messages))

    def _submit(self, message_id, message):
        node, step = message.metadata.dst_node_id, message.metadata.message_type
        server_round = int(message.metadata.group_id)
        self.asked.append((server_round, step, node))
        if node in self._vanish.get((server_round, step), ()):
            self._replies[message_id] = Message(Error(3, "gone"), reply_to=message)
            return
        context = node_context(node, UserConfig({"threads": 1}))
        try:
            self._replies[message_id] = client_app(message, context)
        except Exception as error:
            self._replies[message_id] = Message(Error(2, str(error)), reply_to=message)


@pytest.fixture
def one_client_each(monkeypatch):
    """Give each node one client; a node of a simulation usually has many."""
    monkeypatch.setattr(averaging, "share_cohort", lambda cohort, nodes: [(c,) for c in cohort])


def run(folder, grid=None, privacy=DISTRIBUTED, rounds=3, **kwargs):
    folder.mkdir(parents=True, exist_ok=True)
    made = federation(folder / "t", privacy=privacy, fraction=1.0, rounds=rounds, **kwargs)
    return federate(grid or LocalGrid(client_app), made, folder, "cpu")


def models(folder):
    return list(dict(Transcript(folder / "t").global_models()).values())


def uploads(folder):
    (chunk,) = Transcript(folder / "t")
    return chunk


def equal(some, others):
    return all(
        np.array_equal(a[name], b[name]) for a, b in zip(some, others, strict=True) for name in a
    )


def test_masks_change_uploads_and_no_model(tmp_path):
    secure = run(tmp_path / "secure")
    plain = run(tmp_path / "plain", privacy=replace(DISTRIBUTED, aggregation="plain"))
    assert equal(models(tmp_path / "secure"), models(tmp_path / "plain"))
    assert secure.epsilon == plain.epsilon
    masked, seen = uploads(tmp_path / "secure"), uploads(tmp_path / "plain")
    for name in SHARED:
        assert not np.isclose(masked.arrays[name], seen.arrays[name]).any()
    norms = [l2_norm({n: a[i] for n, a in seen.arrays.items()}) for i in range(3 * NODES)]
    means = np.array(norms).reshape(3, NODES).mean(axis=1)
    assert [r.update_norm_mean for r in plain.rounds] == pytest.approx(means, rel=1e-5)
    assert all(np.isnan(r.update_norm_mean) for r in secure.rounds)


def test_an_upload_that_the_server_sees_is_uniform(tmp_path):
    run(tmp_path)
    step = grid_step(DISTRIBUTED.clipping_norm, sum(SHARED.values()))
    seen = np.concatenate([a.ravel() for a in uploads(tmp_path).arrays.values()]) / step
    assert kstest(seen / 2**32 + 0.5, "uniform").pvalue > 1e-6


def test_without_noise_the_model_moves_by_clipped_updates(tmp_path, monkeypatch):
    monkeypatch.setattr(
        client_module, "_simulated_noises", lambda r: [NoNoise() for _ in r.clients]
    )
    run(tmp_path / "clean", privacy=None, rounds=1)
    run(tmp_path / "sum", rounds=1)
    updates, clip = uploads(tmp_path / "clean").arrays, DISTRIBUTED.clipping_norm
    norms = [l2_norm({n: a[i] for n, a in updates.items()}) for i in range(NODES)]
    weights = np.minimum(1, clip / np.array(norms)) / NODES
    before, after = models(tmp_path / "sum")
    step = grid_step(clip, sum(SHARED.values()))
    for name, array in updates.items():
        expected = np.tensordot(weights, array.astype(np.float64), axes=1)
        np.testing.assert_allclose(after[name] - before[name], expected, rtol=1e-5, atol=step)


@pytest.mark.usefixtures("one_client_each")
def test_nodes_that_come_and_go_give_the_sum_of_the_others(tmp_path):
    vanish = {
        (1, "query.advertise"): [3],
        (1, "query.unmask"): [8],
        (2, "query.share"): [5, 6],
        (3, "train"): [1],
        (3, "query.confirm"): [2],
    }
    outcome = run(tmp_path / "secure", Nodes(vanish))
    summed = [r.clients for r in outcome.rounds]
    assert summed == [7, 6, 7]
    assert [r.rejections for r in outcome.rounds] == [
        {"vanished": 1},
        {"vanished": 2},
        {"failed": 1},
    ]
    # the same clients without masks give the same models, to the bit
    same = {(1, "train"): [3], (2, "train"): [5, 6], (3, "train"): [1]}
    run(tmp_path / "plain", Nodes(same), replace(DISTRIBUTED, aggregation="plain"))
    assert equal(models(tmp_path / "secure"), models(tmp_path / "plain"))
    # who vanished before training has released nothing; whose update may be on its way has
    assert outcome.releases == {c: 3 - (c == 2) - (c in (4, 5)) for c in range(NODES)}


@pytest.mark.parametrize("step", STEPS[:4])
@pytest.mark.usefixtures("one_client_each")
def test_one_too_many_leaves_the_model_as_it_is(step, tmp_path, capsys):
    outcome = run(tmp_path, Nodes({(2, step): [1, 2, 3]}))
    first, second, third, fourth = models(tmp_path)
    assert (
        not equal([first], [second]) and equal([second], [third]) and not equal([third], [fourth])
    )
    assert [r.clients for r in outcome.rounds] == [8, 0, 8]
    lines = [line for line in capsys.readouterr().err.splitlines() if "round 2" in line]
    assert len(lines) == 1 and "5 clients" in lines[0] and "does not change" in lines[0]


@pytest.mark.usefixtures("one_client_each")
def test_no_share_leaves_a_node_twice(tmp_path):
    grid = Nodes({(2, "train"): [4]})
    run(tmp_path, grid)
    for server_round in (1, 2, 3):
        for node in range(1, NODES + 1):
            asked = [s for r, s, n in grid.asked if (r, n) == (server_round, node)]
            assert len(asked) == len(set(asked))


@pytest.mark.usefixtures("one_client_each")
def test_a_run_in_which_no_sum_opens_is_suspended(tmp_path):
    vanish = {(r, "query.confirm"): [1, 2, 3] for r in (1, 2, 3)}
    with pytest.raises(Suspended, match=r"no update could be used \(8 unopened"):
        run(tmp_path, Nodes(vanish), rounds=5)


def test_an_implausible_sum_is_not_taken(tmp_path, monkeypatch, capsys):
    from fedser.client.privacy.distributed import DistributedDP

    honest = DistributedDP.encode

    def too_much(self, update, noise):
        return {n: a + np.uint32(2**27) for n, a in honest(self, update, noise).items()}

    monkeypatch.setattr(DistributedDP, "encode", too_much)
    with pytest.raises(Suspended, match="unopened"):
        run(tmp_path)
    assert "a client does not follow the protocol" in capsys.readouterr().err.replace("\n", " ")


def test_more_clients_than_needed_only_add_noise(tmp_path):
    outcome = run(tmp_path)
    plan = outcome.federation.protocol.plan
    sums = plan.distributed_sum
    assert (sums.cohort, sums.min_clients) == (8, 6)
    planned = plan.sum_stddev(DISTRIBUTED.clipping_norm)
    for row in outcome.rounds:
        assert row.noise_stddev * 8 == pytest.approx(planned * (8 / 5) ** 0.5)
    assert outcome.epsilon == pytest.approx(
        plan.epsilon(largest(outcome.exposures.values())[0]), rel=1e-9
    )


def test_flowers_own_simulation_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"privacy.aggregation=secure: Flower's own simulation"):
        run(tmp_path, object())
