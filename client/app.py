"""The Flower ClientApp: a node that trains the clients it hosts.

A node may host one client (a device) or many (a simulation's worker): the message names
those it wants, and the reply stacks their updates along a leading axis, one row a client, so
that the server sees every client's own update however many nodes there are.
"""

import os
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client.dataset import Dataset
from client.engine import Training
from client.request import TrainRequest
from client.threads import spread
from client.wire import from_record, to_record

STACKED = {"cpu": 16, "cuda": 1024}
"""Clients trained together at most: on a CPU so many that their weights fit its caches."""

SHARED = 2
"""Clients a thread, at least, for that more than one are used."""

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the named clients from the global model and return their protected updates.

    The reply holds ``arrays`` (each parameter stacked to (k, ...)) and ``metrics`` with
    ``clients`` of length k; ``num_examples`` and ``loss`` of length k leave only where the
    privacy mechanism lets them. The node's configuration says on how many ``threads``.
    """
    # One thread a chunk: what a client gets depends neither on how many threads there are nor
    # on who is in its chunk, to the last bit.
    torch.set_num_threads(1)
    request = TrainRequest.from_json(str(message.content.config_records["config"]["request"]))
    request = replace(request, dataset=_found(request.dataset, context))
    start = from_record(message.content.array_records["arrays"])
    data, clients = _dataset(request.dataset, request.device), request.clients
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
        request.secure_noise,
    )

    def work(chunk: slice) -> list[float]:
        losses = training.train(chunk)
        training.protect(chunk, training.updates)
        return losses

    threads = int(context.node_config.get("threads", 1))
    chunks = chunks_of(len(clients), threads, STACKED[request.device])
    losses = [loss for part in spread(threads, work, chunks) for loss in part]
    metrics = MetricRecord({"clients": list(clients)})
    if "num_examples" in request.mechanism.metrics:
        metrics["num_examples"] = training.sizes
    if "loss" in request.mechanism.metrics:
        metrics["loss"] = losses
    content = RecordDict({"arrays": to_record(training.updates), "metrics": metrics})
    return Message(content, reply_to=message)


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


@lru_cache(maxsize=max(2, os.cpu_count() or 1))  # federations that run at a time
def _dataset(path: str, device: str) -> Dataset:
    """Read the clients' data once a process, onto the device that trains."""
    return Dataset.load(Path(path), device)
