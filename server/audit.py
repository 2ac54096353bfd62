"""Canaries: clients of the audit, sent the way of every client's update."""

from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord
from flwr.serverapp import Grid
from tqdm import tqdm

from client.corpora.base import EMOTIONS
from client.mechanism import Arrays, l2_norm
from client.model import initial_arrays
from client.request import TrainRequest
from client.seeds import numpy_stream
from client.speakers import Clients
from conf.schema import AuditConfig
from server.federation import Evidence, Protocol
from server.strategy import TappedAveraging
from server.transcript import Releases

CANARIES_A_ROUND = 50


def release_canaries(
    grid: Grid,
    protocol: Protocol,
    dimension: int,
    audit: AuditConfig,
    magnitude: float,
    workspace: Path,
    device: str,
) -> Evidence:
    """Send canaries through the path that clients' updates take, and score what arrives.

    Parameters
    ----------
    dimension : int
        Number of features, which sets the size of the model.
    magnitude : float
        Norm of the canaries' updates over the clipping norm.
    """
    seed, count = protocol.seed, audit.canaries
    coins = numpy_stream(seed, "audit", "coins").random(count) < 0.5
    dataset = workspace / "canaries.safetensors"
    _canary_clients(coins).save_training(dataset)
    direction = _direction(protocol, dimension)
    scores = np.zeros(count)

    def tap(server_round: int, model: Arrays, releases: Releases) -> None:
        for name, array in direction.items():
            received = releases.arrays[name].reshape(len(releases), -1).astype(np.float64)
            np.add.at(scores, releases.client, received @ array.ravel())

    def request(server_round: int, clients: tuple[int, ...]) -> TrainRequest:
        return TrainRequest(
            f"audit-{magnitude:g}",
            server_round,
            seed,
            clients,
            str(dataset),
            device,
            "canary",
            protocol.model,
            protocol.training,
            protocol.plan.client_mechanism(),
        )

    batches = [b.tolist() for b in np.array_split(np.arange(count), -(-count // CANARIES_A_ROUND))]
    rounds = len(batches) * audit.releases
    strategy = TappedAveraging(lambda r: batches[r % len(batches)], request, 0.0, tap)
    assert protocol.plan.config.clipping_norm is not None  # only such plans are audited
    length = np.float32(magnitude * protocol.plan.config.clipping_norm)
    sent = ArrayRecord({name: Array(length * array) for name, array in direction.items()})
    with tqdm(total=rounds, desc=f"audit at {magnitude:g} times the clip", unit="round") as bar:
        strategy.start(grid, sent, rounds, evaluate_fn=lambda r, _: _advance(bar, r))
    return Evidence(scores, coins)


def _advance(bar: "tqdm[NoReturn]", server_round: int) -> None:
    bar.update(server_round - bar.n)


def _direction(protocol: Protocol, dimension: int) -> Arrays:
    """Draw a unit vector over the shared parameters, in the shapes of the model."""
    rng = numpy_stream(protocol.seed, "audit", "direction")
    shared = protocol.plan.shared
    drawn = {
        name: rng.standard_normal(a.shape, np.float32) * np.float32(name in shared)
        for name, a in initial_arrays(protocol.model, dimension, len(EMOTIONS), 0).items()
    }
    norm = np.float32(l2_norm(drawn))
    return {name: array / norm for name, array in drawn.items()}


def _canary_clients(coins: npt.NDArray[np.bool_]) -> Clients:
    """Give each canary one made-up utterance, whose label is its coin."""
    names = [f"canary{i}" for i in range(len(coins))]
    index = np.arange(len(coins))
    return Clients(
        rows=index,
        features=np.zeros((len(coins), 1), np.float32),
        labels=coins.astype(np.int64),
        client=index,
        validation=np.zeros(len(coins), bool),
        corpora=["audit"] * len(coins),
        speakers=names,
    )
