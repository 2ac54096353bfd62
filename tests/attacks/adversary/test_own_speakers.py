"""What the adversary's own speakers answer at the victims' models, against training by hand."""

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


def play(folder, **kwargs):
    """A federation that ran, and six shadow clients to simulate there."""
    played = federation(folder / "t", test=False, **kwargs)
    federate(LocalGrid(client_app), played, folder, "cpu")
    whole = clients(corpus("shadow", speakers=6, seed=1))
    cast = make_shadow_clients(whole, np.arange(6) % 2, np.arange(6), 10, seed=0)
    return played, Transcript(folder / "t"), cast


def by_hand(protocol, name, start, server_round, examples, one, mechanism=NO_MECHANISM):
    """What one of the cast computes before anything is added."""
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
def test_an_answer_is_local_training_from_the_rounds_recorded_model(tmp_path, algorithm, privacy):
    played, stored, cast = play(tmp_path, algorithm=algorithm, privacy=privacy, rounds=3)
    models = dict(stored.global_models())
    mechanism = played.protocol.plan.client_mechanism()
    # The server divides by 3 steps (ten in batches of four), or by 1 where nobody says how many.
    steps = 1 if privacy.mechanism == "local" else 3
    scale = 1.0 if algorithm == "fedsgd" else -1 / (steps * 5e-3)
    scenes = list(simulate_rounds(stored, played.protocol, cast, asked=2))
    for scene in scenes:
        start = models[scene.round]
        for row, one in enumerate(scene.cast.tolist()):
            expected = by_hand(
                played.protocol, played.name, start, scene.round, cast.examples, one, mechanism
            )
            for name in start:
                apart = scene.plain[name][row] - scale * expected[name]
                assert np.linalg.norm(apart) < 1e-3 * np.linalg.norm(scale * expected[name])
    assert len(scenes) == 3


def test_another_model_gives_another_answer(tmp_path):
    played, stored, cast = play(tmp_path, rounds=2)
    (_, second) = simulate_rounds(stored, played.protocol, cast, asked=1)
    one = int(second.cast[0])
    other = initial_arrays(played.protocol.model, 12, 4, seed=99)
    wrong = by_hand(played.protocol, played.name, other, 2, cast.examples, one)
    found = second.plain["dense.0.weight"][0] * -(3 * 5e-3)
    assert np.abs(found - wrong["dense.0.weight"]).max() > 1e-3


def test_without_a_mechanism_what_is_sent_is_plain(tmp_path):
    played, stored, cast = play(tmp_path)
    for scene in simulate_rounds(stored, played.protocol, cast, asked=3):
        for name, plain in scene.plain.items():
            np.testing.assert_array_equal(scene.sent[name], plain)


@pytest.mark.parametrize("privacy", [UDP, LOCAL], ids=["udp", "local"])
def test_what_is_sent_has_the_mechanisms_noise(tmp_path, privacy):
    loose = replace(privacy, clipping_norm=50.0)  # beyond any update: nothing is cut
    played, stored, cast = play(tmp_path, privacy=loose, rounds=6, num_clients=8)
    scenes = list(simulate_rounds(stored, played.protocol, cast, asked=6))
    steps = 1 if privacy.mechanism == "local" else 3
    noise = np.concatenate(
        [(s.sent[n] - s.plain[n]).ravel() * (steps * 5e-3) for s in scenes for n in s.sent]
    )
    stddev = played.protocol.plan.client_mechanism().stddev(10)
    assert stddev > 0
    assert len(noise) == 36 * (8 * 13 + 6 * 9 + 4 * 7)
    # A standard deviation from n samples is off by 1 / sqrt(2 n): 0.9 %.
    assert noise.std() == pytest.approx(stddev, rel=0.03)
    assert abs(noise.mean()) < 4 * stddev / np.sqrt(len(noise))


def test_every_answer_has_noise_of_its_own(tmp_path):
    loose = replace(LOCAL, clipping_norm=50.0)
    played, stored, cast = play(tmp_path, privacy=loose)
    renamed = replace(stored.meta, federation="private-fold1")
    drawn = []
    for meta in (stored.meta, renamed):
        stored.meta = meta
        drawn += [
            (s.sent["dense.0.weight"] - s.plain["dense.0.weight"]).reshape(len(s.cast), -1)
            for s in simulate_rounds(stored, played.protocol, cast, asked=6)
        ]
    rows = np.concatenate(drawn)
    alike = np.corrcoef(rows) - np.eye(len(rows))
    assert len(rows) == 2 * 4 * 6
    assert np.abs(alike).max() < 0.6  # 96 numbers each: 6 standard errors


@pytest.mark.parametrize("chunk_bytes", [1, 9000, 2**25])
def test_every_round_comes_once_with_its_own_releases(tmp_path, monkeypatch, chunk_bytes):
    monkeypatch.setattr("fedser.server.transcript.transcript.CHUNK_BYTES", chunk_bytes)
    played, stored, cast = play(tmp_path, rounds=5)
    scenes = list(simulate_rounds(stored, played.protocol, cast, asked=1))
    chunks = list(stored)
    assert chunk_bytes > 9000 or len(chunks) > 1
    assert [scene.round for scene in scenes] == [1, 2, 3, 4, 5]
    for scene in scenes:
        assert set(scene.victims.round) == {scene.round}
        clients_of, weights = (
            np.concatenate([f(c)[c.round == scene.round] for c in chunks])
            for f in (lambda c: c.client, lambda c: c.arrays["dense.0.weight"])
        )
        np.testing.assert_array_equal(scene.victims.client, clients_of)
        np.testing.assert_array_equal(scene.victims.arrays["dense.0.weight"], weights)


@pytest.mark.parametrize("chunk_bytes", [1, 2**25])
def test_rounds_of_an_empty_cohort_are_passed_over(tmp_path, monkeypatch, chunk_bytes):
    monkeypatch.setattr("fedser.server.transcript.transcript.CHUNK_BYTES", chunk_bytes)
    drawn = {1: [], 2: [3, 5], 3: [0], 4: []}  # the last may be a file of its own
    monkeypatch.setattr(
        "fedser.server.federation.cohort.Sampler.__call__", lambda self, r, attempt: drawn[r]
    )
    played, stored, cast = play(tmp_path, privacy=replace(LOCAL, epsilon=500.0))
    scenes = list(simulate_rounds(stored, played.protocol, cast, asked=1))
    assert {s.round: s.victims.client.tolist() for s in scenes} == {2: [3, 5], 3: [0]}


def test_who_is_asked_is_seeded_and_nobody_twice(tmp_path):
    played, stored, cast = play(tmp_path, rounds=6)

    def asked(seed):
        protocol = replace(played.protocol, seed=seed)
        return [scene.cast.tolist() for scene in simulate_rounds(stored, protocol, cast, asked=4)]

    found = asked(0)
    assert found == asked(0) != asked(1)
    assert all(len(set(one)) == len(one) == 4 and set(one) <= set(range(6)) for one in found)
    assert len(set(map(tuple, found))) > 1  # others each round
    everyone = [s.cast.tolist() for s in simulate_rounds(stored, played.protocol, cast, asked=99)]
    assert everyone == [list(range(6))] * 6


def test_a_recording_of_some_layers_is_enough(tmp_path):
    first = TranscriptConfig(layers="first", dtype="float32")
    played, stored, cast = play(tmp_path, rounds=1, transcript=first)
    (scene,) = simulate_rounds(stored, played.protocol, cast, asked=1)
    assert set(scene.victims.arrays) == {"dense.0.weight", "dense.0.bias"}
    assert set(scene.plain) == set(scene.sent) == set(dict(stored.global_models())[1])


def test_the_cast_has_so_many_utterances_of_its_own():
    whole = clients(corpus("shadow", speakers=4, seed=1))
    for size, many in [(5, 5), (12, 12), (99, 12), (None, 12)]:
        cast = make_shadow_clients(whole, np.zeros(4, int), np.arange(4), size, seed=0)
        assert len(cast) == 4 and {len(one) for one in cast.examples} == {many}
    for number, one in enumerate(cast.examples):
        own = whole.features[whole.client == number]
        order = np.lexsort(own.T)
        drawn = one.features.numpy()
        np.testing.assert_array_equal(drawn[np.lexsort(drawn.T)], own[order])
        assert one.labels.dtype == torch.int64


def test_the_size_of_victims_is_the_median_of_what_they_say(tmp_path, monkeypatch):
    played, stored, _ = play(tmp_path, rounds=3)
    said = {"a": [10, 10, 40], "b": [20, 30, 60, 90]}
    monkeypatch.setattr(
        "fedser.attacks.adversary.own_speakers.Transcript",
        lambda path: type("T", (), {"num_examples": said[path]}),
    )
    assert victim_size(["a"], played.protocol) == 10
    assert victim_size(["a", "b"], played.protocol) == 30
    monkeypatch.undo()
    assert victim_size([tmp_path / "t"], played.protocol) == 10  # of twelve, two validate


def test_nobody_rehearses_with_one_utterance_because_victims_do_not_say(tmp_path):
    played, stored, _ = play(tmp_path, rounds=1, privacy=LOCAL)
    assert set(stored.num_examples) == {1}
    assert victim_size([tmp_path / "t"], played.protocol) is None
    shared = replace(LOCAL, share_metrics=True)
    told = federation(tmp_path / "u", test=False, rounds=1, privacy=shared)
    federate(LocalGrid(client_app), told, tmp_path, "cpu")
    assert victim_size([tmp_path / "u"], told.protocol) == 10


def test_mechanisms_see_how_much_the_one_who_answers_has(tmp_path):
    """UDP's noise falls with the number of utterances, which need not be the victims'."""
    played, stored, _ = play(tmp_path, privacy=UDP, rounds=3)
    whole = clients(corpus("shadow", speakers=6, seed=1))
    ratio = []
    for size in (2, 8):
        cast = make_shadow_clients(whole, np.zeros(6, int), np.arange(6), size, seed=0)
        steps = -(-size // 4)
        noise = np.concatenate(
            [
                (s.sent["dense.0.weight"] - s.plain["dense.0.weight"]).ravel() * steps
                for s in simulate_rounds(stored, played.protocol, cast, asked=6)
            ]
        )
        ratio.append(noise.std())
    assert ratio[0] / ratio[1] == pytest.approx(4, rel=0.1)
