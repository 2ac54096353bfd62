"""Rounds with pruned updates, and with sums that a node decrypts."""

import random
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open

from fedser.client import app as client_module
from fedser.client.encryption.ckks import STEP
from fedser.client.encryption.key_holder import KeyHolder
from fedser.client.messages import CIPHERTEXTS, PUBLIC_KEY, from_session, to_table
from fedser.client.secure_aggregation.keys import Identity
from fedser.common.arrays import flatten
from fedser.common.errors import Suspended, UserError
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.server.rounds.checkpoint import STATE
from fedser.server.strategy import averaging
from fedser.server.strategy.encrypted_aggregation import EncryptedAggregation
from fedser.server.transcript.transcript import Transcript
from tests.server.rounds import test_checkpoint as resumed
from tests.server.rounds.test_secure import NODES, Nodes, equal, models, run, uploads

PLAIN = PrivacyConfig()
PRUNED = PrivacyConfig(kept=0.3, refresh=3)
CKKS = PrivacyConfig(aggregation="ckks", dropout=0.25)
BOTH = replace(PRUNED, aggregation="ckks", dropout=0.25)


@pytest.fixture
def tenseal():
    return pytest.importorskip("tenseal", reason="needs tenseal: pip install 'fedser[encrypted]'")


@pytest.fixture
def one_client_each(monkeypatch):
    monkeypatch.setattr(averaging, "share_cohort", lambda cohort, nodes: [(c,) for c in cohort])


def moves(folder):
    """The change of the model in each round, flat."""
    flat = [flatten(model) for model in models(folder)]
    return [after - before for before, after in zip(flat, flat[1:], strict=False)]


def test_the_largest_coordinates_of_the_last_full_round_go(tmp_path):
    run(tmp_path, privacy=PRUNED, rounds=7)
    seen, moved, started = uploads(tmp_path), moves(tmp_path), models(tmp_path)
    for server_round, start in enumerate(started[:7], start=1):
        rows = seen.round == server_round
        sent = {name: array[rows] for name, array in seen.arrays.items()}
        flat = np.concatenate([sent[name].reshape(NODES, -1) for name in start], axis=1)
        if server_round in (1, 4, 7):
            assert (flat != 0).any(axis=0).mean() > 0.9
            order = np.argsort(-np.abs(moved[server_round - 1]), kind="stable")
            kept = np.zeros(flat.shape[1], bool)
            kept[order[: round(0.3 * len(kept))]] = True
        else:
            # the sum is float32, and its move of the model is rounded once more: a tie or two
            assert ((flat != 0).any(axis=0) & ~kept).sum() <= 2
        weights = seen.num_examples[rows] / seen.num_examples[rows].sum()
        np.testing.assert_allclose(moved[server_round - 1], weights @ flat, atol=1e-6)


def test_round_one_is_that_of_a_run_without_pruning(tmp_path):
    run(tmp_path / "pruned", privacy=PRUNED, rounds=3)
    run(tmp_path / "plain", privacy=PLAIN, rounds=3)
    pruned, plain = models(tmp_path / "pruned"), models(tmp_path / "plain")
    assert equal(pruned[:2], plain[:2]) and not equal(pruned[2:3], plain[2:3])


@pytest.mark.usefixtures("tenseal")
def test_an_encrypted_run_is_the_plain_run_but_for_rounding(tmp_path):
    encrypted = run(tmp_path / "ckks", privacy=CKKS, rounds=1)
    run(tmp_path / "plain", privacy=PLAIN, rounds=1)
    sizes, updates = uploads(tmp_path / "plain").num_examples, uploads(tmp_path / "plain").arrays
    before, after = models(tmp_path / "ckks")
    for name, array in updates.items():
        weighted = array.astype(np.float64) * sizes.reshape(-1, *[1] * (array.ndim - 1))
        mean = np.rint(weighted / STEP).sum(axis=0) * STEP / sizes.sum()
        assert np.array_equal(after[name], before[name] + mean.astype(np.float32))
        error = np.abs(mean - weighted.sum(axis=0) / sizes.sum())
        assert error.max() <= NODES * STEP / 2 / sizes.sum()
    (row,) = encrypted.rounds
    assert row.clients == NODES and np.isnan(row.update_norm_mean) and row.train_loss > 0


@pytest.mark.usefixtures("tenseal", "one_client_each")
def test_encryption_and_pruning_together(tmp_path):
    run(tmp_path / "both", Nodes(), BOTH, rounds=4)
    run(tmp_path / "pruned", Nodes(), PRUNED, rounds=4)
    pairs = zip(moves(tmp_path / "both"), moves(tmp_path / "pruned"), strict=True)
    for both, pruned in pairs:
        assert np.mean((both != 0) == (pruned != 0)) > 0.9
    assert [round(float(np.mean(m != 0)), 1) for m in moves(tmp_path / "both")] == [1, 0.3, 0.3, 1]


@pytest.mark.usefixtures("tenseal")
def test_the_sum_does_not_depend_on_the_nodes(tmp_path):
    run(tmp_path / "one", privacy=BOTH)
    run(tmp_path / "many", Nodes(), BOTH)
    assert equal(models(tmp_path / "one"), models(tmp_path / "many"))


@pytest.mark.usefixtures("tenseal")
def test_the_transcript_holds_who_took_part_and_no_update(tmp_path):
    run(tmp_path, privacy=CKKS)
    transcript = Transcript(tmp_path / "t")
    (chunk,) = transcript
    assert transcript.meta.recorded == [] and chunk.arrays == {}
    assert chunk.client.tolist() == 3 * list(range(NODES))
    assert len(models(tmp_path)) == 4


@pytest.mark.parametrize("privacy", [PRUNED, pytest.param(BOTH, id="ckks")])
def test_a_resumed_run_sends_the_same_coordinates(privacy, tmp_path, monkeypatch, request):
    if privacy.encrypted:
        request.getfixturevalue("tenseal")
    whole = resumed.run(resumed.federation(tmp_path / "whole", privacy))
    parts = resumed.federation(tmp_path / "parts", privacy)
    resumed.run_until_killed(parts, 5, monkeypatch)
    with safe_open(tmp_path / "parts" / "checkpoint" / STATE, framework="numpy") as file:
        assert any(name.startswith("support.") for name in file.keys())  # noqa: SIM118
    again = resumed.run(parts)
    assert resumed.figures(again) == resumed.figures(whole)
    found, expected = (
        list(dict(Transcript(tmp_path / one / "transcript").global_models()).values())
        for one in ("parts", "whole")
    )
    assert equal(found, expected)


@pytest.mark.parametrize("step", ["query.key", "query.decrypt"])
@pytest.mark.usefixtures("tenseal", "one_client_each")
def test_a_key_holder_that_vanishes_costs_its_round(step, tmp_path, capsys):
    # node 3 holds the key of round 2: the keys go round, and round 1 is that of node 2
    outcome = run(tmp_path, Nodes({(2, step): [3]}), CKKS)
    first, second, third, fourth = models(tmp_path)
    assert not equal([first], [second]) and equal([second], [third])
    assert not equal([third], [fourth])
    assert [r.clients for r in outcome.rounds] == [8, 0, 8]
    reason = "vanished" if step == "query.key" else "unopened"
    assert outcome.rounds[1].rejections == {reason: 8}
    lines = [line for line in capsys.readouterr().err.splitlines() if "round 2" in line]
    assert len(lines) == 1 and "node 3, which holds the key of the sum" in lines[0]
    assert "does not change" in lines[0]


@pytest.mark.usefixtures("tenseal", "one_client_each")
def test_too_few_clients_leave_the_model_as_it_is(tmp_path, capsys):
    grid = Nodes({(2, "train"): [1, 4, 5]})
    outcome = run(tmp_path, grid, BOTH)
    _, second, third, fourth = models(tmp_path)
    assert equal([second], [third]) and not equal([third], [fourth])
    assert outcome.rounds[1].rejections == {"failed": 3, "unopened": 5}
    assert "5 clients are left, which is fewer than the 6" in capsys.readouterr().err
    # nobody asked the node with the key to open it
    assert not [step for r, step, _ in grid.asked if (r, step) == (2, "query.decrypt")]


@pytest.mark.usefixtures("tenseal", "one_client_each")
def test_a_first_round_without_a_sum_is_full_once_more(tmp_path):
    run(tmp_path, Nodes({(1, "query.key"): [2]}), BOTH)
    assert [round(float(np.mean(m != 0)), 1) for m in moves(tmp_path)] == [0.0, 1.0, 0.3]


@pytest.mark.usefixtures("tenseal", "one_client_each")
def test_hostile_ciphertexts_are_counted_and_left_out(tmp_path, monkeypatch):
    honest, rng = client_module._prune_and_encrypt, random.Random(0)

    def hostile(message, context, content):
        honest(message, context, content)
        table = content.config_records["ciphertexts"]
        parts = table["content"]
        match context.node_id:
            case 1:
                table["content"] = [rng.randbytes(len(parts[0]))]
            case 2:
                content["ciphertexts"] = to_table(CIPHERTEXTS, [(1, parts[0]), (1, parts[0])])
            case 4:
                content["ciphertexts"] = to_table(CIPHERTEXTS, [(0, parts[0])])

    monkeypatch.setattr(client_module, "_prune_and_encrypt", hostile)
    privacy = replace(CKKS, dropout=0.49)
    spoiled = run(tmp_path / "spoiled", Nodes(), privacy, rounds=1)
    monkeypatch.setattr(client_module, "_prune_and_encrypt", honest)
    run(tmp_path / "others", Nodes({(1, "train"): [1, 2, 4]}), privacy, rounds=1)
    assert equal(models(tmp_path / "spoiled"), models(tmp_path / "others"))
    assert spoiled.rounds[0].rejections == {"ciphertext": 2, "clients": 1}


@pytest.mark.usefixtures("tenseal", "one_client_each")
def test_an_update_under_another_key_spoils_no_model(tmp_path, monkeypatch, capsys):
    honest, other = client_module._prune_and_encrypt, KeyHolder(Identity())

    def hostile(message, context, content):
        if context.node_id == 3 and message.metadata.group_id == "2":
            session = from_session(message.content.config_records["session"])
            key = other.make(session)
            row = (key.content, key.signer, key.signature)
            message.content["key"] = to_table(PUBLIC_KEY, [row])
        honest(message, context, content)

    monkeypatch.setattr(client_module, "_prune_and_encrypt", hostile)
    outcome = run(tmp_path, Nodes(), CKKS)
    _, second, third, fourth = models(tmp_path)
    assert equal([second], [third]) and not equal([third], [fourth])
    assert [r.rejections for r in outcome.rounds] == [{}, {"unopened": 8}, {}]
    assert "a client does not follow the protocol" in capsys.readouterr().err


@pytest.mark.usefixtures("tenseal")
def test_each_round_has_its_own_key(tmp_path, monkeypatch):
    made, keys = KeyHolder.make, []

    def remember(self, session):
        keys.append(made(self, session))
        return keys[-1]

    monkeypatch.setattr(KeyHolder, "make", remember)
    run(tmp_path, privacy=CKKS)
    assert len({key.content for key in keys}) == len(keys) == 3


@pytest.mark.usefixtures("tenseal")
def test_the_server_holds_no_secret_key(tmp_path, monkeypatch):
    begin, seen = EncryptedAggregation.begin, []

    def watched(self, *rest):
        assigned = begin(self, *rest)
        seen.append(self)
        return assigned

    monkeypatch.setattr(EncryptedAggregation, "begin", watched)
    run(tmp_path, privacy=CKKS)
    server = seen[-1]
    assert len(seen) == 3 and not server.key._context.is_private()
    with pytest.raises(ValueError, match="secret"):
        server._total[0].decrypt()


@pytest.mark.usefixtures("tenseal")
def test_a_run_without_a_key_is_suspended(tmp_path, monkeypatch):
    monkeypatch.setattr(KeyHolder, "make", lambda self, session: 1 / 0)
    with pytest.raises(Suspended, match=r"no update could be used \(8 vanished"):
        run(tmp_path, Nodes(), CKKS, rounds=5)


@pytest.mark.parametrize("content", [b"", b"garbage"])
@pytest.mark.usefixtures("tenseal")
def test_a_node_that_gives_no_key_costs_its_round(content, tmp_path, monkeypatch, capsys):
    made = KeyHolder.make

    def wrong(self, session):
        key = made(self, session)
        return replace(key, content=content) if session.round == 1 else key

    monkeypatch.setattr(KeyHolder, "make", wrong)
    outcome = run(tmp_path, Nodes(), CKKS, rounds=2)
    assert [r.clients for r in outcome.rounds] == [0, 8]
    assert "gives no key for the sum" in capsys.readouterr().err.replace("\n", " ")


def test_flowers_own_simulation_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"privacy.aggregation=ckks: Flower's own simulation"):
        run(tmp_path, object(), CKKS)
