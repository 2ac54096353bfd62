"""Run federations of made-up clients through the path of every update, for the audit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from fedser.client.messages import to_record
from fedser.client.models.base import initial_arrays
from fedser.client.speakers.clients import Clients
from fedser.common.arrays import Arrays
from fedser.common.seeds import noise_source
from fedser.server.federation.federation import Protocol
from fedser.server.grids.local import share_file
from fedser.server.grids.progress import bar
from fedser.server.privacy.plan import PrivacyPlan
from fedser.server.strategy.aggregate import Aggregate, Aggregation, Received, aggregation
from fedser.server.strategy.averaging import TappedAveraging
from fedser.server.transcript.transcript import RecordedUpdates

CLASSES = 4


@dataclass
class Recording:
    """Updates and aggregates of a federation, per round.

    Attributes
    ----------
    updates : list of dict
        Per round: the update of each client as it arrived, or what `read` made of it.
    aggregates : list of Aggregate
        Per round: the server's aggregate.
    """

    updates: list[dict[int, Any]] = field(default_factory=list)
    aggregates: list[Aggregate] = field(default_factory=list)


def _advance(shown: Any, server_round: int, _: ArrayRecord) -> None:
    shown.update(server_round - shown.n)


def _copy(update: Arrays) -> Arrays:
    return {name: array.copy() for name, array in update.items()}


@dataclass(frozen=True)
class AuditPath:
    """Runs made-up clients through the real mechanism, messages, server and tap.

    Attributes
    ----------
    workspace : Path
        Folder for the clients' training data, which nodes read.
    dimension : int
        Number of features; it sets the size of the model.
    """

    grid: Grid
    protocol: Protocol
    dimension: int
    workspace: Path
    device: str

    @property
    def model(self) -> Arrays:
        """A new model with the shapes of the recogniser."""
        return initial_arrays(self.protocol.model, self.dimension, CLASSES, 0)

    def of_cohort(self, clients: int) -> "AuditPath":
        """Return the path of cohorts of exactly these clients, if they add the noise of a sum."""
        plan = self.protocol.plan
        if plan.config.spec.noise_at != "shares":
            return self
        return replace(self, protocol=replace(self.protocol, plan=plan.with_cohort(clients)))

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
        """Run one round per cohort; the model never changes.

        Parameters
        ----------
        name : str
            Names the random streams.
        algorithm : str
            ``fedavg``, ``fedsgd`` or ``canary``.
        plan : PrivacyPlan, optional
            Replaces the plan of the protocol.
        read : callable
            Maps an update to what is recorded of it; by default a copy of the update.
        """
        protocol = replace(self.protocol, plan=plan) if plan else self.protocol
        dataset = self.workspace / f"{name}.safetensors"
        clients.save_training(dataset)
        share_file(self.grid, dataset)
        seed = protocol.noise_seed
        recorder = _Recorder(
            aggregation(protocol.plan, lambda r: noise_source(seed, name, "sum noise", r)), read
        )
        strategy = TappedAveraging(
            cohort=lambda number: list(cohorts[number - 1]),
            request=lambda number, own: protocol.train_request(
                name, algorithm, dataset, self.device, number, own
            ),
            aggregate=recorder.aggregate,
            server_step=0.0,
            client_sizes=clients.sizes().tolist(),
            tap=recorder.tap,
        )
        with bar(len(cohorts), name) as shown:
            advance = partial(_advance, shown)
            strategy.start(self.grid, to_record(start), len(cohorts), evaluate_fn=advance)
        return recorder.recording


class _Recorder:
    """Records what the strategy taps and aggregates."""

    def __init__(self, aggregation: Aggregation, read: Callable[[Arrays], Any]) -> None:
        self._aggregation, self._read, self.recording = aggregation, read, Recording()

    def aggregate(self, number: int, received: Sequence[Received], model: Arrays) -> Aggregate:
        self.recording.aggregates.append(self._aggregation(number, received, model))
        return self.recording.aggregates[-1]

    def tap(self, number: int, model: Arrays, received: Sequence[RecordedUpdates]) -> None:
        self.recording.updates.append(
            {
                client: self._read({n: array[row] for n, array in part.arrays.items()})
                for part in received
                for row, client in enumerate(part.client.tolist())
            }
        )


def made_up_clients(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], sizes: Sequence[int]
) -> Clients:
    """Give n made-up utterances to clients of these sizes, one client after another."""
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
