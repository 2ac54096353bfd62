"""Updates of shadow clients at the victims' models, against training by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedser.attacks.adversary.own_speakers import make_shadow_clients, simulate_rounds, victim_size
from fedser.client.app import app as client_app
from fedser.client.models.base import initial_arrays
from fedser.client.privacy.base import NoMechanism
from fedser.client.training.local import fedavg_update, fedsgd_gradient
from fedser.client.training.task import LocalTask
from fedser.conf.algorithm_keys import TranscriptConfig
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.server.grids.local import LocalGrid
from fedser.server.rounds.federate import federate
from fedser.server.transcript.transcript import Transcript
from tests.examples import LOCAL, UDP, NoNoise, clients, corpus, federation

PLAIN = PrivacyConfig()
NO_MECHANISM = NoMechanism()


def run(folder, **kwargs):
    """Return a federation that ran, its transcript, and six shadow clients."""
    private = federation(folder / "t", test=False, **kwargs)
    federate(LocalGrid(client_app), private, folder, "cpu")
    whole = clients(corpus("shadow", speakers=6, seed=1))
    shadow_clients = make_shadow_clients(whole, np.arange(6) % 2, np.arange(6), 10, seed=0)
    return private, Transcript(folder / "t"), shadow_clients


def by_hand(protocol, name, start, server_round, examples, one, mechanism=NO_MECHANISM):
    """Return the update that a shadow client computes before noise."""
    train = {"fedavg": fedavg_update, "fedsgd": fedsgd_gradient}[protocol.algorithm.name]
    task = LocalTask(
        algorithm=protocol.algorithm.name,
        model=protocol.model,
        start=start,
        training=protocol.training,
        mechanism=mechanism,
        data=examples,
        clients=[one],
        seed=protocol.seed,
        stream=("rehearsal", name, server_round),
        noises=[NoNoise()],
    )
    return train(task, 0)[0]


@pytest.mark.parametrize(
    ("algorithm", "privacy"),
    [("fedsgd", PLAIN), ("fedavg", PLAIN), ("fedavg", UDP), ("fedavg", LOCAL)],
    ids=["fedsgd", "fedavg", "udp", "local"],
)
def test_updates_are_local_training_from_the_recorded_model(tmp_path, algorithm, privacy):
    private, stored, shadow_clients = run(tmp_path, algorithm=algorithm, privacy=privacy, rounds=3)
    models = dict(stored.global_models())
    mechanism = private.protocol.plan.client_mechanism()
    # The server divides by 3 steps (ten utterances in batches of four), or by 1 without a size.
    steps = 1 if privacy.mechanism == "local" else 3
    scale = 1.0 if algorithm == "fedsgd" else -1 / (steps * 5e-3)
    simulated = list(simulate_rounds(stored, private.protocol, shadow_clients, asked=2))
    for one_round in simulated:
        start = models[one_round.round]
        for row, one in enumerate(one_round.clients.tolist()):
            expected = by_hand(
                private.protocol,
                private.name,
                start,
                one_round.round,
                shadow_clients.examples,
                one,
                mechanism,
            )
            for name in start:
                apart = one_round.plain[name][row] - scale * expected[name]
                assert np.linalg.norm(apart) < 1e-3 * np.linalg.norm(scale * expected[name])
    assert len(simulated) == 3


def test_another_model_gives_another_update(tmp_path):
    private, stored, shadow_clients = run(tmp_path, rounds=2)
    (_, second) = simulate_rounds(stored, private.protocol, shadow_clients, asked=1)
    one = int(second.clients[0])
    other = initial_arrays(private.protocol.model, 12, 4, seed=99)
    wrong = by_hand(private.protocol, private.name, other, 2, shadow_clients.examples, one)
    found = second.plain["dense.0.weight"][0] * -(3 * 5e-3)
    assert np.abs(found - wrong["dense.0.weight"]).max() > 1e-3


def test_without_a_mechanism_sent_updates_are_plain(tmp_path):
    private, stored, shadow_clients = run(tmp_path)
    for one_round in simulate_rounds(stored, private.protocol, shadow_clients, asked=3):
        for name, plain in one_round.plain.items():
            np.testing.assert_array_equal(one_round.sent[name], plain)


@pytest.mark.parametrize("privacy", [UDP, LOCAL], ids=["udp", "local"])
def test_sent_updates_have_the_mechanisms_noise(tmp_path, privacy):
    loose = replace(privacy, clipping_norm=50.0)  # above any update: nothing is clipped
    private, stored, shadow_clients = run(tmp_path, privacy=loose, rounds=6, num_clients=8)
    simulated = list(simulate_rounds(stored, private.protocol, shadow_clients, asked=6))
    steps = 1 if privacy.mechanism == "local" else 3
    noise = np.concatenate(
        [(s.sent[n] - s.plain[n]).ravel() * (steps * 5e-3) for s in simulated for n in s.sent]
    )
    stddev = private.protocol.plan.client_mechanism().stddev(10)
    assert stddev > 0
    assert len(noise) == 36 * (8 * 13 + 6 * 9 + 4 * 7)
    # A standard deviation from n samples is off by 1 / sqrt(2 n): 0.9 %.
    assert noise.std() == pytest.approx(stddev, rel=0.03)
    assert abs(noise.mean()) < 4 * stddev / np.sqrt(len(noise))


def test_every_update_has_noise_of_its_own(tmp_path):
    loose = replace(LOCAL, clipping_norm=50.0)
    private, stored, shadow_clients = run(tmp_path, privacy=loose)
    renamed = replace(stored.meta, federation="private-fold1")
    drawn = []
    for meta in (stored.meta, renamed):
        stored.meta = meta
        drawn += [
            (s.sent["dense.0.weight"] - s.plain["dense.0.weight"]).reshape(len(s.clients), -1)
            for s in simulate_rounds(stored, private.protocol, shadow_clients, asked=6)
        ]
    rows = np.concatenate(drawn)
    alike = np.corrcoef(rows) - np.eye(len(rows))
    assert len(rows) == 2 * 4 * 6
    assert np.abs(alike).max() < 0.6  # 96 numbers each: 6 standard errors


@pytest.mark.parametrize("chunk_bytes", [1, 9000, 2**25])
def test_every_round_comes_once_with_its_own_updates(tmp_path, monkeypatch, chunk_bytes):
    monkeypatch.setattr("fedser.server.transcript.transcript.CHUNK_BYTES", chunk_bytes)
    private, stored, shadow_clients = run(tmp_path, rounds=5)
    simulated = list(simulate_rounds(stored, private.protocol, shadow_clients, asked=1))
    chunks = list(stored)
    assert chunk_bytes > 9000 or len(chunks) > 1
    assert [one_round.round for one_round in simulated] == [1, 2, 3, 4, 5]
    for one_round in simulated:
        assert set(one_round.victims.round) == {one_round.round}
        clients_of, weights = (
            np.concatenate([f(c)[c.round == one_round.round] for c in chunks])
            for f in (lambda c: c.client, lambda c: c.arrays["dense.0.weight"])
        )
        np.testing.assert_array_equal(one_round.victims.client, clients_of)
        np.testing.assert_array_equal(one_round.victims.arrays["dense.0.weight"], weights)


@pytest.mark.parametrize("chunk_bytes", [1, 2**25])
def test_rounds_of_an_empty_cohort_are_skipped(tmp_path, monkeypatch, chunk_bytes):
    monkeypatch.setattr("fedser.server.transcript.transcript.CHUNK_BYTES", chunk_bytes)
    drawn = {1: [], 2: [3, 5], 3: [0], 4: []}  # the last may be a file of its own
    monkeypatch.setattr(
        "fedser.server.federation.cohort.Sampler.__call__", lambda self, r, *attempts: drawn[r]
    )
    private, stored, shadow_clients = run(tmp_path, privacy=replace(LOCAL, epsilon=500.0))
    simulated = list(simulate_rounds(stored, private.protocol, shadow_clients, asked=1))
    assert {s.round: s.victims.client.tolist() for s in simulated} == {2: [3, 5], 3: [0]}


def test_shadow_clients_are_drawn_by_seed_without_repetition(tmp_path):
    private, stored, shadow_clients = run(tmp_path, rounds=6)

    def asked(seed):
        protocol = replace(private.protocol, seed=seed)
        return [
            one_round.clients.tolist()
            for one_round in simulate_rounds(stored, protocol, shadow_clients, asked=4)
        ]

    found = asked(0)
    assert found == asked(0) != asked(1)
    assert all(len(set(one)) == len(one) == 4 and set(one) <= set(range(6)) for one in found)
    assert len(set(map(tuple, found))) > 1  # other clients in each round
    everyone = [
        s.clients.tolist()
        for s in simulate_rounds(stored, private.protocol, shadow_clients, asked=99)
    ]
    assert everyone == [list(range(6))] * 6


def test_a_transcript_of_some_layers_is_enough(tmp_path):
    first = TranscriptConfig(layers="first", dtype="float32")
    private, stored, shadow_clients = run(tmp_path, rounds=1, transcript=first)
    (one_round,) = simulate_rounds(stored, private.protocol, shadow_clients, asked=1)
    assert set(one_round.victims.arrays) == {"dense.0.weight", "dense.0.bias"}
    assert set(one_round.plain) == set(one_round.sent) == set(dict(stored.global_models())[1])


def test_shadow_clients_have_size_utterances_of_their_own():
    whole = clients(corpus("shadow", speakers=4, seed=1))
    for size, many in [(5, 5), (12, 12), (99, 12), (None, 12)]:
        shadow_clients = make_shadow_clients(whole, np.zeros(4, int), np.arange(4), size, seed=0)
        assert len(shadow_clients) == 4 and {len(one) for one in shadow_clients.examples} == {many}
    for number, one in enumerate(shadow_clients.examples):
        own = whole.features[whole.client == number]
        order = np.lexsort(own.T)
        drawn = one.features.numpy()
        np.testing.assert_array_equal(drawn[np.lexsort(drawn.T)], own[order])
        assert one.labels.dtype == torch.int64


def test_victim_size_is_the_median_of_reported_sizes(tmp_path, monkeypatch):
    private, stored, _ = run(tmp_path, rounds=3)
    sizes = {"a": [10, 10, 40], "b": [20, 30, 60, 90]}
    monkeypatch.setattr(
        "fedser.attacks.adversary.own_speakers.Transcript",
        lambda path: type("T", (), {"num_examples": sizes[path]}),
    )
    assert victim_size(["a"], private.protocol) == 10
    assert victim_size(["a", "b"], private.protocol) == 30
    monkeypatch.undo()
    assert victim_size([tmp_path / "t"], private.protocol) == 10  # two of twelve validate


def test_victim_size_is_none_if_victims_do_not_report_it(tmp_path):
    private, stored, _ = run(tmp_path, rounds=1, privacy=LOCAL)
    assert set(stored.num_examples) == {1}
    assert victim_size([tmp_path / "t"], private.protocol) is None
    shared = replace(LOCAL, share_metrics=True)
    shared_size = federation(tmp_path / "u", test=False, rounds=1, privacy=shared)
    federate(LocalGrid(client_app), shared_size, tmp_path, "cpu")
    assert victim_size([tmp_path / "u"], shared_size.protocol) == 10


def test_mechanisms_use_the_size_of_the_shadow_client(tmp_path):
    """UDP's noise depends on the utterances of the shadow client, not of the victims."""
    private, stored, _ = run(tmp_path, privacy=UDP, rounds=3)
    whole = clients(corpus("shadow", speakers=6, seed=1))
    ratio = []
    for size in (2, 8):
        shadow_clients = make_shadow_clients(whole, np.zeros(6, int), np.arange(6), size, seed=0)
        steps = -(-size // 4)
        noise = np.concatenate(
            [
                (s.sent["dense.0.weight"] - s.plain["dense.0.weight"]).ravel() * steps
                for s in simulate_rounds(stored, private.protocol, shadow_clients, asked=6)
            ]
        )
        ratio.append(noise.std())
    assert ratio[0] / ratio[1] == pytest.approx(4, rel=0.1)
