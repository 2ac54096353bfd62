"""Collect samples of DP-SGD for the audit: its noise, its batches, and guesses of membership.

Gradients are read as FedSGD sends them: FedAvg sends Adam's steps, which hide the gradients. Each
canary utterance has one feature that is not zero, so the first layer's gradient has one column per
canary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedser.client.speakers.clients import Clients
from fedser.common.arrays import Arrays, Bools, Floats64, Ints
from fedser.server.privacy.composition import Releases
from fedser.server.rounds.audit_noise import (
    SIZES,
    Collected,
    Membership,
    NoiseSamples,
    noise_rounds,
)
from fedser.server.rounds.audit_path import AuditPath, Recording, made_up_clients

CLIENTS, BATCH_ROUNDS, GUESSED_ROUNDS = 4, 60, 30
BATCHES_OF_ALL = 3
"""Canary utterances per client, as a multiple of the expected batch size."""
LOW_NOISE = 1e-4
"""Noise multiplier of the pass that reads batches."""
CERTAIN = 100.0
"""Bias of the right class: the model is so sure that the gradient is zero in float32."""


@dataclass(frozen=True)
class OneRun:
    """Guesses of which canary utterances were in the training data of one run.

    Attributes
    ----------
    scores : ndarray of float, shape (m,)
        A higher score means that the utterance was more likely in the data.
    included : ndarray of bool, shape (m,)
        Whether the utterance was in the data.
    releases : Releases
        Releases of the utterance with the weakest protection.
    """

    scores: Floats64
    included: Bools
    releases: Releases


def collect_private(path: AuditPath) -> tuple[Collected, OneRun | None]:
    """Send canary utterances through DP-SGD; no guesses if every batch holds all utterances."""
    found = Collected(noises=[_noise(path)])
    size = min(path.dimension, BATCHES_OF_ALL * path.protocol.training.batch_size)
    if path.protocol.training.sampling_rate(size) == 1:
        return found, None
    present, directions = _batches(path, size)
    rate = path.protocol.training.sampling_rate(size)
    by_client = present.transpose(1, 0, 2).reshape(-1, size)
    found.memberships.append(Membership("batches of one client", rate, by_client))
    of_all = Membership("batches of several clients", rate, present.reshape(-1, size))
    found.memberships.append(of_all)
    return found, _guess(path, size, directions)


def _noise(path: AuditPath) -> NoiseSamples:
    """Return the noise on the gradients of a model that is sure: they are noise only."""
    c, training = path.protocol.plan.config, path.protocol.training
    features = np.zeros((sum(SIZES), *path.utterance), np.float32)
    start, everybody = path.model, list(range(len(SIZES)))
    start[list(start)[-1]][0] = CERTAIN
    clients = made_up_clients(features, np.zeros(sum(SIZES), np.int64), SIZES)
    cohorts = [everybody] * noise_rounds(path, len(SIZES))
    recorded = path.run("audit-noise", clients, start, cohorts, "fedsgd")
    assert c.clipping_norm is not None and path.protocol.plan.noise_multiplier is not None
    stddev = c.clipping_norm * path.protocol.plan.noise_multiplier
    batch = np.array([min(size, training.batch_size) for size in SIZES]) / stddev
    tensors = {
        name: np.stack([np.stack([of[c][name] * batch[c] for c in everybody]) for of in updates])
        for updates in [recorded.updates]
        for name in path.model
    }
    return NoiseSamples("private gradients", tensors)


def _batches(path: AuditPath, size: int) -> tuple[Bools, Floats64]:
    """Return the members of each batch, (R, K, n), and the direction of each canary, (n, h)."""
    plan = path.protocol.plan.with_noise(noise_multiplier=LOW_NOISE)
    everybody = list(range(CLIENTS))
    recorded = path.run(
        *("audit-batches", _canary_utterances(path, [range(size)] * CLIENTS), _active(path)),
        *([everybody] * BATCH_ROUNDS, "fedsgd", plan),
    )
    columns = _columns(path, recorded, size)
    lengths = np.linalg.norm(columns, axis=3)
    present = lengths > lengths.max() / 50
    total = columns.sum(axis=(0, 1))
    return present, total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-30)


def _guess(path: AuditPath, size: int, directions: Floats64) -> OneRun:
    """Include each canary at random, train once, and score how much of it the gradients hold."""
    coins = np.random.default_rng().random((CLIENTS, size)) < 0.5
    coins[:, :1] = True  # a client needs one utterance
    canaries_of = [np.flatnonzero(coin) for coin in coins]
    everybody = list(range(CLIENTS))
    recorded = path.run(
        *("audit-one-run", _canary_utterances(path, canaries_of), _active(path)),
        *([everybody] * GUESSED_ROUNDS, "fedsgd"),
    )
    scores = np.einsum("rknh,nh->kn", _columns(path, recorded, size), directions)
    # Clients of different sizes have gradients of different scales: compare within each client.
    scores = (scores - scores.mean(axis=1, keepdims=True)) / scores.std(axis=1, keepdims=True)
    rate = max(path.protocol.training.sampling_rate(len(own)) for own in canaries_of)
    kept = slice(1, None)
    releases = Releases(GUESSED_ROUNDS, rate)
    return OneRun(scores[:, kept].ravel(), coins[:, kept].ravel(), releases)


def _canary_utterances(path: AuditPath, canaries_of: Sequence[Sequence[int] | Ints]) -> Clients:
    """Return utterances with one feature that is not zero, of a class the model does not expect."""
    numbers = np.concatenate([np.asarray(own) for own in canaries_of])
    features = np.zeros((len(numbers), *path.utterance), np.float32)
    features[np.arange(len(numbers)), ..., numbers] = 1.0
    sizes = [len(own) for own in canaries_of]
    return made_up_clients(features, np.ones(len(numbers), np.int64), sizes)


def _active(path: AuditPath) -> Arrays:
    """Return a model with active hidden units that expects class 0."""
    start = path.model
    for name, array in start.items():
        if name.endswith("bias"):
            array[...] = 1.0
    first = next(iter(start))
    start[first] *= np.float32(0.1)
    start[list(start)[-1]][...] = [4.0, 0.0, 0.0, 0.0]
    return start


def _columns(path: AuditPath, recorded: Recording, size: int) -> Floats64:
    """Return the first layer's gradient by canary, shape (R, K, n, h)."""
    first = next(iter(path.model))
    stacked = [
        np.stack([updates[c][first][:, :size].T for c in range(CLIENTS)])
        for updates in recorded.updates
    ]
    return np.stack(stacked).astype(np.float64)
