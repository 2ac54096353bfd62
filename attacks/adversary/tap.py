"""What an adversary holds of each client, by vantage: the updates that it can attack.

A server sees every update with its sender (``attributed``). Under secure aggregation it knows
who took part in a round and how the model moved (``aggregate``): each of the cohort is then
taken to have sent that. Whoever is given the trained model alone (``final``) holds one and the
same of every client, so that no attack can tell the clients apart.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedser.common.arrays import Floats, Ints
from fedser.common.errors import UserError
from fedser.conf.training_keys import TrainingConfig
from fedser.server.transcript.transcript import RecordedUpdates, Transcript, TranscriptMeta


@dataclass(frozen=True)
class SeenUpdates:
    """All that the adversary holds of one client: k pseudo-gradients in the order of rounds.

    Attributes
    ----------
    client : int
    round : ndarray of int64, shape (k,)
    gradients : mapping of str to ndarray of float32, shape (k, ...)
        By parameter.
    """

    client: int
    round: Ints
    gradients: dict[str, Floats]


def tap(
    transcript: Transcript,
    vantage: str,
    parameters: Sequence[str],
    initial_weights: bool,
    rows: Mapping[int, Ints] | None = None,
) -> Iterator[SeenUpdates]:
    """Yield what is seen of one client after another; one client's is in memory at a time.

    Parameters
    ----------
    vantage : str
        ``attributed``, ``aggregate`` or ``final``.
    parameters : sequence of str
        Those to look at.
    initial_weights : bool
        Whether the adversary knows them: if not, a final model is attacked as it is.
    rows : mapping of int to ndarray of int, optional
        Clients to look at, and which of theirs; all by default.

    Raises
    ------
    UserError
        If the transcript holds no update.
    """
    last = transcript.num_models
    all_sent = transcript.of_clients(parameters if vantage == "attributed" else [], rows)
    for sent in all_sent if rows is not None else refuse_empty(all_sent, transcript.meta):
        client, rounds = int(sent.client[0]), sent.round
        if vantage == "attributed":
            gradients = pseudo_gradients(transcript.meta, sent)
        elif vantage == "aggregate":
            gradients = _moves(transcript, rounds, rounds + 1, parameters)
        else:
            rounds = np.array([last - 1])
            start = np.array([1]) if initial_weights else None
            gradients = _moves(transcript, start, np.array([last]), parameters)
        yield SeenUpdates(client, rounds, gradients)


def refuse_empty(
    sent: Iterator[RecordedUpdates], meta: TranscriptMeta
) -> Iterator[RecordedUpdates]:
    """Yield what a transcript holds.

    Raises
    ------
    UserError
        If that is nothing.
    """
    empty = True
    for releases in sent:
        empty = False
        yield releases
    if empty:
        raise UserError(f"the transcript of {meta.federation} holds no update: nothing to attack")


def pseudo_gradients(meta: TranscriptMeta, releases: RecordedUpdates) -> dict[str, Floats]:
    """Turn updates into what one step at learning rate 1 would have been.

    A FedAvg update is divided by minus the learning rate times the client's steps, which the
    server can work out (Feng et al., 2021); a FedSGD update is a gradient already.
    """
    if meta.algorithm == "fedsgd":
        return releases.arrays
    training = TrainingConfig(**meta.training)  # type: ignore[arg-type]
    steps = np.array([training.steps(n) for n in releases.num_examples.tolist()])
    factor = (-1 / (training.learning_rate * steps)).astype(np.float32)
    return {n: a * factor.reshape(-1, *[1] * (a.ndim - 1)) for n, a in releases.arrays.items()}


def _moves(
    transcript: Transcript, start: Ints | None, end: Ints, parameters: Sequence[str]
) -> dict[str, Floats]:
    """Return how the model moved between rounds, in the direction of a gradient.

    Its scale does not matter: it is the same for shadow models and for the victims'.
    """
    after = transcript.models(end, parameters)
    before = transcript.models(start, parameters) if start is not None else {}
    return {name: before.get(name, np.float32(0)) - array for name, array in after.items()}
