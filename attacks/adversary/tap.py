"""What an adversary sees of each client at its vantage: the updates that it can attack.

A server sees every update with its sender (``attributed``). Under secure aggregation it knows the
cohort of each round and how the model moved (``aggregate``). From all rounds it estimates the part
of each client. An adversary who only gets the trained model (``final``) sees the same
for every client, so no attack can distinguish the clients.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedser.common.arrays import Floats, Ints
from fedser.common.errors import UserError
from fedser.conf.training_keys import TrainingConfig
from fedser.server.transcript.transcript import RecordedUpdates, Transcript, TranscriptMeta

RIDGE = 0.1
"""Regularisation of the least squares of sums, over the mean squared weight of a client."""


@dataclass(frozen=True)
class View:
    """The part of a transcript that the adversary looks at.

    Attributes
    ----------
    vantage : str
        ``attributed``, ``aggregate`` or ``final``.
    parameters : sequence of str
        Names of the parameters.
    initial_weights : bool
        Whether the adversary knows them. If not, a final model is attacked as it is.
    """

    vantage: str
    parameters: Sequence[str]
    initial_weights: bool


@dataclass(frozen=True)
class SeenUpdates:
    """All that the adversary sees of one client: k pseudo-gradients in the order of rounds.

    It is one for all rounds unless the vantage is ``attributed``.

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
    transcript: Transcript, view: View, rows: Mapping[int, Ints] | None = None
) -> Iterator[SeenUpdates]:
    """Yield what the adversary sees of each client; only one client is in memory at a time.

    Parameters
    ----------
    rows : mapping of int to ndarray of int, optional
        Clients to look at, and the places of their updates; all by default.

    Raises
    ------
    UserError
        If the transcript holds no update.
    """
    last = transcript.num_models
    estimate = None
    recorded = view.parameters if view.vantage == "attributed" else []
    all_sent = transcript.of_clients(recorded, rows)
    for sent in all_sent if rows is not None else reject_empty(all_sent, transcript.meta):
        client, rounds = int(sent.client[0]), np.array([last - 1])
        if view.vantage == "attributed":
            rounds, gradients = sent.round, pseudo_gradients(transcript.meta, sent)
        elif view.vantage == "aggregate":
            estimate = estimate or _client_estimates(transcript, view.parameters)
            gradients = estimate(client)
        else:
            start = np.array([1]) if view.initial_weights else None
            gradients = _moves(transcript, start, np.array([last]), view.parameters)
        yield SeenUpdates(client, rounds, gradients)


def reject_empty(
    sent: Iterator[RecordedUpdates], meta: TranscriptMeta
) -> Iterator[RecordedUpdates]:
    """Yield the updates of a transcript, and reject a transcript without updates.

    Raises
    ------
    UserError
        If there is no update.
    """
    empty = True
    for releases in sent:
        empty = False
        yield releases
    if empty:
        raise UserError(f"the transcript of {meta.federation} holds no update: nothing to attack")


def pseudo_gradients(meta: TranscriptMeta, releases: RecordedUpdates) -> dict[str, Floats]:
    """Return the gradients that would give the same updates in one step at learning rate 1.

    A FedAvg update is divided by minus the learning rate times the client's number of steps, which
    the server can compute (Feng et al., 2021). A FedSGD update already is a gradient.
    """
    if meta.algorithm == "fedsgd":
        return releases.arrays
    training = TrainingConfig(**meta.training)  # type: ignore[arg-type]
    steps = np.array([training.steps(n) for n in releases.num_examples.tolist()])
    factor = (-1 / (training.learning_rate * steps)).astype(np.float32)
    return {n: a * factor.reshape(-1, *[1] * (a.ndim - 1)) for n, a in releases.arrays.items()}


def _client_estimates(
    transcript: Transcript, parameters: Sequence[str]
) -> Callable[[int], dict[str, Floats]]:
    """Return a function that estimates the mean pseudo-gradient (1, ...) of a client from sums.

    The model of the estimate: a move is the mean of its clients' updates, and a client sends the
    same update in all rounds, apart from noise. It is found by regularised least squares over all
    rounds, which draws it towards the mean move. Clients that take part in the same rounds have the
    same estimate. All moves are in memory.

    References
    ----------
    Kerkouche, Acs and Fritz (2023), "Client-specific Property Inference against Secure Aggregation
    in Federated Learning", arXiv:2303.03908.
    """
    taken = {int(sent.client[0]): sent.round for sent in transcript.of_clients([])}
    rounds = np.unique(np.concatenate(list(taken.values())))
    part = np.stack([np.isin(rounds, own) for own in taken.values()], axis=1)
    weights = part / part.sum(axis=1, keepdims=True)
    products = weights @ weights.T
    penalty = RIDGE * np.trace(products) / len(taken)
    # One column for clients with the same rounds: not even rounding errors may tell them apart.
    different, place = np.unique(weights, axis=1, return_inverse=True)
    solved = np.linalg.solve(products + penalty * np.eye(len(rounds)), different)
    factors = dict(zip(taken, solved.T[place.ravel()].astype(np.float32), strict=True))
    moves = _moves(transcript, rounds, rounds + 1, parameters)
    means = {name: array.mean(axis=0, keepdims=True) for name, array in moves.items()}
    apart = {name: array - means[name] for name, array in moves.items()}

    def estimate(client: int) -> dict[str, Floats]:
        own = factors[client][None]
        return {name: means[name] + np.tensordot(own, a, 1) for name, a in apart.items()}

    return estimate


def _moves(
    transcript: Transcript, start: Ints | None, end: Ints, parameters: Sequence[str]
) -> dict[str, Floats]:
    """Return how the model moved between rounds, in the direction of a gradient.

    The scale does not matter, because it is the same for shadow federations and for the victims.
    """
    after = transcript.models(end, parameters)
    before = transcript.models(start, parameters) if start is not None else {}
    return {name: before.get(name, np.float32(0)) - array for name, array in after.items()}
