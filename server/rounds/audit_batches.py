"""What the audit collects of DP-SGD: its noise, its batches, and guesses of who was in the data.

Gradients are read as FedSGD sends them: Adam's steps of FedAvg hide them, and are computed from
them. Canary utterances have one feature each, so the first layer's gradient has a column for each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fedser.client.speakers.clients import Clients
from fedser.common.arrays import Arrays, Bools, Ints
from fedser.server.privacy.composition import Releases
from fedser.server.rounds.audit_noise import (
    SIZES,
    Collected,
    Membership,
    NoiseSamples,
    noise_rounds,
)
from fedser.server.rounds.audit_path import AuditPath, Recording, made_up_clients

Floats64 = npt.NDArray[np.float64]

CLIENTS, BATCH_ROUNDS, GUESSED_ROUNDS = 4, 60, 30
BATCHES_OF_ALL = 3
"""Canary utterances a client, in expected batches."""
QUIET = 1e-4
CERTAIN = 100.0
"""Bias of a class that the model is sure of: its gradient vanishes in float32."""


@dataclass(frozen=True)
class OneRun:
    """Guesses of which canary utterances were in the data of one training.

    Attributes
    ----------
    scores : ndarray of float, shape (m,)
        The higher, the likelier it was in.
    included : ndarray of bool, shape (m,)
    releases : Releases
        Of the utterance that is worst off.
    """

    scores: Floats64
    included: Bools
    releases: Releases


def collect_private(path: AuditPath) -> tuple[Collected, OneRun | None]:
    """Send canary utterances through DP-SGD; nothing to guess if every batch holds all."""
    found = Collected(noises=[_noise(path)])
    size = min(path.dimension, BATCHES_OF_ALL * path.protocol.training.batch_size)
    if path.protocol.training.sampling_rate(size) == 1:
        return found, None
    quiet, directions = _batches(path, size)
    rate = path.protocol.training.sampling_rate(size)
    by_client = quiet.transpose(1, 0, 2).reshape(-1, size)
    found.memberships.append(Membership("batches of one client", rate, by_client))
    of_all = Membership("batches of several clients", rate, quiet.reshape(-1, size))
    found.memberships.append(of_all)
    return found, _guess(path, size, directions)


def _noise(path: AuditPath) -> NoiseSamples:
    """Noise on the gradient of a model that is sure of the right class, which has no other."""
    c, training = path.protocol.plan.config, path.protocol.training
    features = np.zeros((sum(SIZES), *path.utterance), np.float32)
    start, everybody = path.like, list(range(len(SIZES)))
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
        for name in path.like
    }
    return NoiseSamples("private gradients", tensors)


def _batches(path: AuditPath, size: int) -> tuple[Bools, Floats64]:
    """Return who is in each batch, (R, K, n), and the direction of each canary, (n, h)."""
    config = replace(path.protocol.plan.config, epsilon=None, noise_multiplier=QUIET)
    plan = replace(path.protocol.plan, config=config)
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
    """Include each canary by a coin, train once, and score how much of it the gradients hold."""
    coins = np.random.default_rng().random((CLIENTS, size)) < 0.5
    coins[:, :1] = True  # no client is empty
    held = [np.flatnonzero(coin) for coin in coins]
    everybody = list(range(CLIENTS))
    recorded = path.run(
        *("audit-one-run", _canary_utterances(path, held), _active(path)),
        *([everybody] * GUESSED_ROUNDS, "fedsgd"),
    )
    scores = np.einsum("rknh,nh->kn", _columns(path, recorded, size), directions)
    # Clients of different sizes have gradients of different scales; ranks compare within one.
    scores = (scores - scores.mean(axis=1, keepdims=True)) / scores.std(axis=1, keepdims=True)
    rate = max(path.protocol.training.sampling_rate(len(own)) for own in held)
    kept = slice(1, None)
    releases = Releases(GUESSED_ROUNDS, rate)
    return OneRun(scores[:, kept].ravel(), coins[:, kept].ravel(), releases)


def _canary_utterances(path: AuditPath, held: Sequence[Sequence[int] | Ints]) -> Clients:
    """Utterances with a single feature that is not zero, of a class that is not expected."""
    numbers = np.concatenate([np.asarray(own) for own in held])
    features = np.zeros((len(numbers), *path.utterance), np.float32)
    features[np.arange(len(numbers)), ..., numbers] = 1.0
    return made_up_clients(features, np.ones(len(numbers), np.int64), [len(own) for own in held])


def _active(path: AuditPath) -> Arrays:
    """Return a model with active hidden units that expects class 0."""
    start = path.like
    for name, array in start.items():
        if name.endswith("bias"):
            array[...] = 1.0
    first = next(iter(start))
    start[first] *= np.float32(0.1)
    start[list(start)[-1]][...] = [4.0, 0.0, 0.0, 0.0]
    return start


def _columns(path: AuditPath, recorded: Recording, size: int) -> Floats64:
    """Return the first layer's gradient by canary, shape (R, K, n, h)."""
    first = next(iter(path.like))
    stacked = [
        np.stack([updates[c][first][:, :size].T for c in range(CLIENTS)])
        for updates in recorded.updates
    ]
    return np.stack(stacked).astype(np.float64)
