"""The path of the audit: federations of made-up clients that go the way of every update."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.serverapp import Grid

from fedser.client.messages import to_record
from fedser.client.models.base import initial_arrays
from fedser.client.speakers.clients import Clients
from fedser.common.arrays import Arrays
from fedser.common.seeds import noise_source
from fedser.server.federation.federation import Protocol
from fedser.server.grids.local import offer
from fedser.server.grids.progress import bar
from fedser.server.privacy.plan import PrivacyPlan
from fedser.server.strategy.aggregate import Aggregate, Received, aggregation
from fedser.server.strategy.averaging import TappedAveraging
from fedser.server.transcript.transcript import RecordedUpdates

CLASSES = 4


@dataclass
class Recording:
    """What the server saw of a federation, round by round.

    Attributes
    ----------
    updates : list of dict
        Each client's update as it arrived, or what was read of it.
    aggregates : list of Aggregate
        What the server made of them.
    """

    updates: list[dict[int, Any]] = field(default_factory=list)
    aggregates: list[Aggregate] = field(default_factory=list)


def _advance(shown: Any, server_round: int) -> None:
    shown.update(server_round - shown.n)


def _copy(update: Arrays) -> Arrays:
    return {name: array.copy() for name, array in update.items()}


@dataclass(frozen=True)
class AuditPath:
    """Sends made-up clients through the real mechanism, messages, server and tap.

    Attributes
    ----------
    workspace : Path
        Folder for the clients' data, which nodes read.
    dimension : int
        Number of features, which sets the size of the model.
    """

    grid: Grid
    protocol: Protocol
    dimension: int
    workspace: Path
    device: str

    @property
    def like(self) -> Arrays:
        """Parameters of the recogniser."""
        return initial_arrays(self.protocol.model, self.dimension, CLASSES, 0)

    @property
    def utterance(self) -> tuple[int, ...]:
        """Shape of the features of a made-up utterance: a vector, or a few frames."""
        frames = (3,) if self.protocol.model.reads_frames else ()
        return (*frames, self.dimension)

    def run(
        self,
        name: str,
        clients: Clients,
        start: Arrays,
        cohorts: Sequence[Sequence[int]],
        algorithm: str,
        plan: PrivacyPlan | None = None,
        read: Callable[[Arrays], Any] = _copy,
    ) -> Recording:
        """Run a round for each cohort; the model never moves.

        Parameters
        ----------
        name : str
            Names the random streams.
        algorithm : str
            ``fedavg``, ``fedsgd`` or ``canary``.
        plan : PrivacyPlan, optional
            In place of the protocol's.
        read : callable
            What is kept of each update: by default all of it.
        """
        protocol = replace(self.protocol, plan=plan) if plan else self.protocol
        dataset = self.workspace / f"{name}.safetensors"
        clients.save_training(dataset)
        offer(self.grid, dataset)
        seed, recording = protocol.noise_seed, Recording()
        aggregate = aggregation(protocol.plan, lambda r: noise_source(seed, name, "sum noise", r))

        def aggregated(number: int, received: Sequence[Received], model: Arrays) -> Aggregate:
            recording.aggregates.append(aggregate(number, received, model))
            return recording.aggregates[-1]

        def tap(number: int, model: Arrays, received: Sequence[RecordedUpdates]) -> None:
            recording.updates.append(
                {
                    client: read({n: array[row] for n, array in part.arrays.items()})
                    for part in received
                    for row, client in enumerate(part.client.tolist())
                }
            )

        strategy = TappedAveraging(
            cohort=lambda number: list(cohorts[number - 1]),
            request=lambda number, own: protocol.train_request(
                name, algorithm, dataset, self.device, number, own
            ),
            aggregate=aggregated,
            server_step=0.0,
            held=clients.sizes().tolist(),
            tap=tap,
        )
        with bar(len(cohorts), name) as shown:
            strategy.start(
                self.grid,
                to_record(start),
                len(cohorts),
                evaluate_fn=lambda number, _: _advance(shown, number),
            )
        return recording


def made_up_clients(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], sizes: Sequence[int]
) -> Clients:
    """Deal n made-up utterances out to clients of these sizes, one after another."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return Clients(
        rows=np.arange(len(owner)),
        features=features,
        labels=labels,
        client=owner,
        validation=np.zeros(len(owner), bool),
        corpora=["audit"] * len(sizes),
        speakers=[f"canary{i}" for i in range(len(sizes))],
    )
