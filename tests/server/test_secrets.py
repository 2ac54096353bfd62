"""Attacks that subtract noise fail: every run, round and attempt has new noise.

Each attack reads the clean update or sum if noise follows from a seed that others know, or if it is
used twice, as `reproducible_noise` shows. Cosines of independent directions in d coordinates have
a standard error of 1 / sqrt(d).
"""

import math
from dataclasses import replace

import numpy as np
import pytest

from fedser.client.app import app as client_app
from fedser.client.privacy.noise import below
from fedser.common.seeds import noise_source
from fedser.server.grids.local import LocalGrid
from fedser.server.rounds.federate import federate
from fedser.server.strategy import aggregate
from fedser.server.strategy.aggregate import NoisedMean
from fedser.server.transcript.transcript import Transcript
from tests.examples import CENTRAL, LOCAL, SHARED, NoNoise, federation
from tests.server.rounds.test_failures import Flaky
from tests.server.rounds.test_remote import RealNodes, remote  # noqa: F401  a fixture

D = sum(SHARED.values())
STANDARD_ERROR = 1 / math.sqrt(D)


def flat(arrays):
    return np.concatenate([arrays[name].ravel() for name in SHARED]).astype(np.float64)


def cosine(one, other):
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def released(folder, noise_multiplier, seed=0, **changes):
    """Run two central rounds; return the clean sum and the released sum of the first."""
    privacy = replace(CENTRAL, epsilon=None, noise_multiplier=noise_multiplier, **changes)
    made = federation(folder / "t", rounds=2, fraction=0.9, privacy=privacy, seed=seed)
    outcome = federate(LocalGrid(client_app), made, folder, "cpu")
    first = next(iter(Transcript(folder / "t")))
    models = dict(Transcript(folder / "t").global_models())
    clean = np.zeros(D)
    for row in np.flatnonzero(first.round == 1):
        update = flat({name: array[row] for name, array in first.arrays.items()})
        clean += update * min(1, below(0.1) / np.linalg.norm(update))
    moved = flat(models[2]) - flat(models[1])
    return clean, moved * outcome.federation.protocol.plan.expected_cohort


@pytest.mark.parametrize("reproducible", [False, True])
def test_two_runs_with_one_seed_do_not_reveal_the_sum(tmp_path, reproducible):
    noises = (100.0, 200.0)
    runs = []
    for number, noise in enumerate(noises):
        (tmp_path / str(number)).mkdir()
        made = released(tmp_path / str(number), noise, reproducible_noise=reproducible)
        runs.append(made)
    (clean, first), (_, second) = runs
    read = (noises[0] * second - noises[1] * first) / (noises[0] - noises[1])
    if reproducible:  # the same noise in both runs
        assert cosine(read, clean) > 0.99
    else:
        assert abs(cosine(read, clean)) < 4 * STANDARD_ERROR


def test_a_stored_update_of_a_real_node_cannot_be_cleaned(tmp_path, remote):  # noqa: F811
    """The server knows the request and its seed; it may even ask for reproducible noise."""
    privacy = replace(LOCAL, epsilon=None, noise_multiplier=100.0)
    made = remote("n", privacy)
    stored = {}

    def keep(message, reply):
        asked = message.content.config_records["config"]["request"]
        if not stored and reply.has_content() and "metrics" in reply.content:
            stored["request"], stored["reply"] = asked, reply
            clients = list(reply.content["metrics"]["clients"])
            arrays = reply.content.array_records["arrays"]
            stored["client"] = clients[0]
            stored["sent"] = {n: a.numpy()[0].copy() for n, a in arrays.items()}
        return reply

    federate(RealNodes(tmp_path, keep), made, tmp_path, "cpu")
    clean = clean_update(tmp_path, stored["client"])
    mechanism = made.protocol.plan.client_mechanism()
    for seed in (0, None):
        for attempt in (0, 1):
            stream = ("noise", made.name, 1, attempt, stored["client"])
            noise = noise_source(seed, *stream)
            silent = {n: np.zeros_like(a) for n, a in stored["sent"].items()}
            guessed = mechanism.protect(silent, 1, noise)
            assert abs(cosine(flat(stored["sent"]) - flat(guessed), clean)) < 4 * STANDARD_ERROR


def clean_update(folder, client):
    """Return a client's update in the first round of the same federation without noise."""
    (folder / "clean").mkdir()
    made = federation(folder / "clean" / "t", rounds=2)
    federate(LocalGrid(client_app), made, folder / "clean", "cpu")
    first = next(iter(Transcript(folder / "clean" / "t")))
    row = int(np.flatnonzero((first.round == 1) & (first.client == client))[0])
    return flat({name: array[row] for name, array in first.arrays.items()})


class Killed(BaseException):
    """No code handles this error, like a kill."""


@pytest.mark.parametrize("reproducible", [False, True])
def test_a_repeated_round_has_new_noise(tmp_path, monkeypatch, reproducible):
    """Late clients are missing in the first attempt: equal noise would reveal their sum."""
    privacy = replace(
        CENTRAL,
        epsilon=None,
        noise_multiplier=100.0,
        vantage="sum",
        relation="zero_out",
        reproducible_noise=reproducible,
    )
    made = federation(tmp_path / "t", rounds=2, fraction=0.9, privacy=privacy)
    made = replace(made, checkpoint=tmp_path / "c")
    released, clean = [], []
    real = NoisedMean.__call__

    def call(self, server_round, received, model):
        found = real(self, server_round, received, model)
        if server_round == 1:
            scale = self._plan.expected_cohort
            released.append(flat(found.mean) * scale)
            silent = real(replaced(self), server_round, received, model)
            clean.append(flat(silent.mean) * scale)
            if len(released) == 1:
                raise Killed
        return found

    def replaced(self):
        return NoisedMean(self._plan, lambda server_round: NoNoise())

    monkeypatch.setattr(aggregate.NoisedMean, "__call__", call)
    with pytest.raises(Killed):
        federate(Flaky(late={1}), made, tmp_path, "cpu")
    federate(Flaky(), made, tmp_path, "cpu")
    late = clean[1] - clean[0]
    assert np.linalg.norm(late) > 0
    assert abs(cosine(released[1] - released[0], late)) < 4 * STANDARD_ERROR


def test_a_repeated_release_has_new_noise(tmp_path):
    privacy = replace(LOCAL, epsilon=None, noise_multiplier=3.0)
    plan = federation(tmp_path / "t", privacy=privacy).protocol.plan
    mechanism = plan.client_mechanism()
    update = {name: np.zeros((size,), np.float32) for name, size in SHARED.items()}
    sent = [
        flat(mechanism.protect(update, 1, noise_source(0, "noise", "f", 1, attempt, 3)))
        for attempt in (0, 1)
    ]
    (stddev,) = mechanism.noise
    distance = np.linalg.norm(sent[0] - sent[1]) / (stddev * math.sqrt(2 * D))
    assert abs(distance - 1) < 5 / math.sqrt(2 * D)
    assert abs(cosine(*sent)) < 4 * STANDARD_ERROR
