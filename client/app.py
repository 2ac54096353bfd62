"""The Flower ClientApp: a node that trains the clients it hosts.

A node may host one client (a device) or many (a simulation's worker): the message names
those it wants, and the reply stacks their updates along a leading axis, one row a client, so
that the server sees every client's own update however many nodes there are.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client import training
from client.canary import canary_update
from client.mechanism import Arrays
from client.request import TrainRequest
from client.seeds import noise_source, torch_stream
from client.speakers import load_training
from client.training import Examples
from client.wire import from_record, to_record

app = ClientApp()

TRAINERS = training.TRAINERS | {"canary": canary_update}


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the named clients from the global model and return their protected updates.

    The reply holds ``arrays`` (each parameter stacked to (k, ...)) and ``metrics`` with
    ``clients`` of length k; ``num_examples`` and ``loss`` of length k leave only where the
    privacy mechanism lets them.
    """
    # One thread a worker: workers share the cores, and a simulated and an in-process run
    # agree to the last bit.
    torch.set_num_threads(1)
    request = TrainRequest.from_json(str(message.content.config_records["config"]["request"]))
    start = from_record(message.content.array_records["arrays"])
    trained = [_train_client(client, start, request) for client in request.clients]
    stacked = {name: np.stack([update[name] for update, _, _ in trained]) for name in start}
    metrics = MetricRecord({"clients": list(request.clients)})
    if "num_examples" in request.mechanism.metrics:
        metrics["num_examples"] = [size for _, size, _ in trained]
    if "loss" in request.mechanism.metrics:
        metrics["loss"] = [loss for _, _, loss in trained]
    content = RecordDict({"arrays": to_record(stacked), "metrics": metrics})
    return Message(content, reply_to=message)


def _train_client(client: int, start: Arrays, request: TrainRequest) -> tuple[Arrays, int, float]:
    examples = _dataset(request.dataset, request.device)[client]
    stream = (request.federation, client, request.round)
    noise = noise_source(request.secure_noise, request.seed, "noise", *stream)
    update, loss = TRAINERS[request.algorithm](
        request.model,
        start,
        examples,
        request.training,
        torch_stream(request.seed, "training", *stream),
        request.mechanism.gradient,
        noise,
    )
    return request.mechanism.protect(update, len(examples), noise), len(examples), loss


@lru_cache(maxsize=2)
def _dataset(path: str, device: str) -> list[Examples]:
    """Read the clients' data once a process, onto the device that trains."""
    return [
        Examples(torch.tensor(features, device=device), torch.tensor(labels, device=device))
        for features, labels in load_training(Path(path))
    ]
