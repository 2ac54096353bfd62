"""The Flower ClientApp: a node that trains the clients it hosts.

A node may host one client (a device) or many (a simulation's worker): the message names
those it wants, and the reply stacks their updates along a leading axis, one row a client, so
that the server sees every client's own update however many nodes there are.

A real node holds data of its own, in a file that its configuration names as ``holdings``. It
reads no other, tells whose utterances it holds when it is asked, and evaluates the models that
it is sent.
"""

import json
import logging
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from fedser.client.corpora.base import EMOTIONS
from fedser.client.holdings import FederationData, Holdings
from fedser.client.messages import from_record, to_record
from fedser.client.models.base import initial_arrays, load_arrays
from fedser.client.models.mlp import Mlp
from fedser.client.privacy.base import NoMechanism
from fedser.client.training.dataset import Dataset, Examples
from fedser.client.training.engine import Training
from fedser.client.training.evaluation import confusion_matrices
from fedser.client.training.request import Hosting, TrainRequest
from fedser.common.arrays import Arrays
from fedser.common.jit import compiling_alone
from fedser.common.seeds import NoiseSource, SystemEntropy, noise_source
from fedser.common.threads import cores, spread
from fedser.conf.training_keys import TrainingConfig

STACKED = {"cpu": 16, "cuda": 1024}
"""Clients trained together at most: on a CPU so many that their weights fit its caches."""

SHARED = 2
"""Clients a thread, at least, for that more than one are used."""


def discreet(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Say of the failure of a node with data of its own no more than its kind.

    A message could name files, and Flower sends it to the server.
    """
    if "holdings" not in context.node_config:
        return call_next(message, context)
    try:
        return call_next(message, context)
    except Exception as error:
        logging.exception("a message could not be answered")
        raise RuntimeError(f"{type(error).__name__}: the node's own log says more") from None


app = ClientApp(mods=[discreet])


@app.query()
def roster(message: Message, context: Context) -> Message:
    """Tell whose utterances this node holds, as `Holdings.roster` has it."""
    held = _holdings(str(context.node_config["holdings"]))
    content = RecordDict({"roster": ConfigRecord({"json": json.dumps(held.roster)})})
    return Message(content, reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the named clients from the global model and return their protected updates.

    The reply holds ``arrays`` (each parameter stacked to (k, ...)) and ``metrics`` with
    ``clients`` of length k; ``num_examples`` and ``loss`` of length k leave only where the
    privacy mechanism lets them. A node with data of its own adds ``evaluation``, the flattened
    confusion matrices ``validation`` and ``test`` of the model that it was sent. The node's
    configuration says on how many ``threads``, and with data of its own on which ``device``.
    """
    # One thread a chunk: what a client gets depends neither on how many threads there are nor
    # on who is in its chunk, to the last bit.
    torch.set_num_threads(1)
    asked = str(message.content.config_records["config"]["request"])
    # A node with data of its own imports nothing that a message names.
    request = TrainRequest.from_json(asked, custom="holdings" not in context.node_config)
    start = from_record(message.content.array_records["arrays"])
    threads = int(context.node_config.get("threads", 1))
    if "holdings" not in context.node_config:
        path = _found(str(request.dataset), context)
        noises = _simulated_noises(request)
        data = _dataset(path, request.device)
        content = _train(request, start, data, request.device, threads, noises)
        return Message(content, reply_to=message)
    if request.hosting is None:
        raise ValueError("a node with data of its own reads no file that a message names")
    path, device = (str(context.node_config[key]) for key in ("holdings", "device"))
    hosted, content = _hosted(path, request.hosting, request.seed, device), RecordDict()
    if request.clients:
        # Nothing that the server sends may influence the noise of a real device.
        noises = [SystemEntropy() for _ in request.clients]
        content = _train(request, start, hosted.training, device, threads, noises)
    content["evaluation"] = _evaluate(request, start, hosted, threads)
    return Message(content, reply_to=message)


def warm_up(device: str) -> None:
    """Compile what the first message would wait for, by training on two made-up utterances.

    Of nodes that start together on a machine one compiles, and the others read what it kept.
    """
    model = Mlp(hidden=[2])
    labels = torch.zeros(2, dtype=torch.int64, device=device)
    data = Dataset.of([Examples(torch.zeros(2, 2, device=device), labels)])
    plain, none = TrainingConfig(), NoMechanism()
    request = TrainRequest("", 0, 0, (0,), None, device, "fedavg", model, plain, none)
    with compiling_alone():
        _train(
            request, initial_arrays(model, 2, len(EMOTIONS), 0), data, device, 1, [SystemEntropy()]
        )


def _simulated_noises(request: TrainRequest) -> list[NoiseSource]:
    """Return where the noise of each client of a simulation comes from."""
    stream = ("noise", request.federation, request.round, request.attempt)
    return [noise_source(request.noise_seed, *stream, client) for client in request.clients]


def _train(
    request: TrainRequest,
    start: Arrays,
    data: Dataset,
    device: str,
    threads: int,
    noises: Sequence[NoiseSource],
) -> RecordDict:
    clients = request.clients
    training = Training(
        request.algorithm,
        request.model,
        start,
        data,
        clients,
        request.training,
        request.mechanism,
        request.seed,
        (request.federation, request.round),
        noises,
    )

    def protect(chunk: slice) -> None:
        training.protect(chunk, training.updates)

    def work(chunk: slice) -> list[float]:
        losses = training.train(chunk)
        protect(chunk)
        return losses

    count, most = len(clients), STACKED[device]
    if device == "cpu":
        found = spread(threads, work, chunks_of(count, threads, most))
    else:  # one large chunk keeps a GPU busier than small ones of several threads
        found = [training.train(chunk) for chunk in chunks_of(count, 1, most)]
        spread(threads, protect, chunks_of(count, threads, most))
    losses = [loss for part in found for loss in part]
    metrics = MetricRecord({"clients": list(clients)})
    if "num_examples" in request.mechanism.metrics:
        metrics["num_examples"] = training.sizes
    if "loss" in request.mechanism.metrics:
        metrics["loss"] = losses
    return RecordDict({"arrays": to_record(training.updates), "metrics": metrics})


def _evaluate(
    request: TrainRequest, model: Arrays, hosted: FederationData, threads: int
) -> MetricRecord:
    recogniser = request.model.network(hosted.test.features.shape[-1], len(EMOTIONS)).eval()
    load_arrays(recogniser, model)
    sets = [
        (held.features.cpu().numpy(), held.labels.cpu().numpy())
        for held in (hosted.validation, hosted.test)
    ]
    validated, tested = (
        found.ravel().tolist() for found in confusion_matrices(recogniser, sets, threads)
    )
    return MetricRecord({"validation": validated, "test": tested})


def chunks_of(count: int, threads: int, most: int) -> list[slice]:
    """Cut clients into about equal chunks of at most so many, a like number for each thread.

    Few are left together: threads that take turns at small computations hinder each other.
    """
    if count < SHARED * threads:
        threads = 1
    number = threads * -(-count // (threads * most))
    cuts = [count * i // number for i in range(number + 1)] if number else []
    return [slice(i, j) for i, j in pairwise(cuts)]


def _found(dataset: str, context: Context) -> str:
    """Return where this node finds a file: in its own ``workspace``, if it was given one."""
    folder = context.node_config.get("workspace")
    return str(Path(str(folder), Path(dataset).name)) if folder else dataset


@lru_cache(maxsize=1)
def _holdings(path: str) -> Holdings:
    return Holdings.load(Path(path))


@lru_cache(maxsize=8)  # federations that take turns
def _hosted(path: str, hosting: Hosting, seed: int, device: str) -> FederationData:
    return _holdings(path).hosted(hosting, seed, device)


@lru_cache(maxsize=max(2, cores()))  # federations that run at a time
def _dataset(path: str, device: str) -> Dataset:
    """Read the clients' data once a process, onto the device that trains."""
    return Dataset.load(Path(path), device)
