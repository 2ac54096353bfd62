"""The adversary's own speakers, trained at the global models from which the victims started.

Anyone who runs the protocol knows the global model of every round. So the adversary can answer the
request of each round with speakers whose attributes it knows, under the same mechanism.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fedser.attacks.adversary.tap import pseudo_gradients
from fedser.client.privacy.base import Mechanism
from fedser.client.speakers.clients import Clients
from fedser.client.training.dataset import Dataset, Examples
from fedser.client.training.engine import LocalTraining
from fedser.client.training.task import LocalTask
from fedser.common.arrays import Floats, Ints
from fedser.common.seeds import noise_source, numpy_stream
from fedser.server.federation.federation import Protocol
from fedser.server.transcript.transcript import RecordedUpdates, Transcript


@dataclass(frozen=True)
class ShadowClients:
    """The adversary's A speakers as clients.

    Attributes
    ----------
    examples : Dataset
        Of A clients.
    labels, speakers : ndarray of int64, shape (A,)
        Class of the attribute, and number of the speaker.
    """

    examples: Dataset
    labels: Ints
    speakers: Ints

    def __len__(self) -> int:
        """Return A."""
        return len(self.examples)


@dataclass(frozen=True)
class SimulatedRound:
    """One round: k updates of victims, and updates of a shadow clients from the same model.

    Attributes
    ----------
    round : int
    victims : RecordedUpdates
    clients : ndarray of int64, shape (a,)
        The shadow clients that were trained.
    plain, sent : dict of str to ndarray of float32, shape (a, ...)
        Pseudo-gradients of their updates, before and after the mechanism.
    """

    round: int
    victims: RecordedUpdates
    clients: Ints
    plain: dict[str, Floats]
    sent: dict[str, Floats]


def make_shadow_clients(
    clients: Clients, labels: Ints, speakers: Ints, size: int | None, seed: int
) -> ShadowClients:
    """Sample `size` utterances per client; keep all if the client has fewer or `size` is None."""
    examples = []
    for client in range(len(clients)):
        rows = np.flatnonzero(clients.client == client)
        rng = numpy_stream(seed, "cast", clients.corpora[client], client)
        kept = rng.permutation(rows)[:size]
        features, emotions = clients.features[kept], clients.labels[kept]
        examples.append(Examples(torch.from_numpy(features), torch.from_numpy(emotions)))
    return ShadowClients(Dataset.of(examples), labels, speakers)


def victim_size(paths: Sequence[Path], protocol: Protocol) -> int | None:
    """Return the median number of utterances that victims report with their updates.

    Return None if the mechanism withholds this number. The transcript then counts one per client.
    """
    if not _reports_size(protocol.plan.client_mechanism()):
        return None
    return int(np.median(np.concatenate([Transcript(path).num_examples for path in paths])))


def simulate_rounds(
    transcript: Transcript, protocol: Protocol, shadow_clients: ShadowClients, asked: int
) -> Iterator[SimulatedRound]:
    """Train shadow clients at the global model of every round in which victims sent updates.

    Parameters
    ----------
    asked : int
        Number of shadow clients to draw per round.
    """
    models, mechanism = transcript.global_models(), protocol.plan.client_mechanism()
    for victims in _rounds(transcript):
        server_round = int(victims.round[0])
        model = next(found for number, found in models if number == server_round)
        # Earlier results depend on the names of the random streams: they must not change.
        stream = ("rehearsal", transcript.meta.federation, server_round)
        rng = numpy_stream(protocol.seed, *stream)
        chosen = np.sort(rng.permutation(len(shadow_clients))[:asked])
        training = LocalTraining(
            LocalTask(
                algorithm=protocol.algorithm.name,
                model=protocol.model,
                start=model,
                training=protocol.training,
                mechanism=mechanism,
                data=shadow_clients.examples,
                clients=chosen.tolist(),
                seed=protocol.seed,
                stream=stream,
                noises=[noise_source(protocol.seed, "noise", *stream, c) for c in chosen.tolist()],
            )
        )
        training.train(slice(None))
        plain = training.updates
        sent = {name: array.copy() for name, array in plain.items()}
        training.protect(slice(None), sent)
        sizes = np.array(training.sizes if _reports_size(mechanism) else [1] * len(chosen))
        rounds = np.full(len(chosen), server_round)
        plain, sent = (
            pseudo_gradients(transcript.meta, RecordedUpdates(rounds, chosen, sizes, updates))
            for updates in (plain, sent)
        )
        yield SimulatedRound(server_round, victims, chosen, plain, sent)


def _reports_size(mechanism: Mechanism) -> bool:
    """Return whether clients report their number of utterances."""
    return "num_examples" in mechanism.metrics


def _rounds(transcript: Transcript) -> Iterator[RecordedUpdates]:
    """Yield the updates of one round after another; a file always ends with a whole round."""
    for chunk in transcript:
        for rows in np.split(np.arange(len(chunk)), np.flatnonzero(np.diff(chunk.round)) + 1):
            yield RecordedUpdates(
                chunk.round[rows],
                chunk.client[rows],
                chunk.num_examples[rows],
                {name: array[rows] for name, array in chunk.arrays.items()},
            )
