"""The Flower ClientApp: a node that trains the clients it hosts.

A node may host one client (a device) or many (a worker of a simulation). The message names the
clients to train. The reply stacks their updates along a leading axis, one row per client, so the
server sees each client's own update for any number of nodes.

A real node has its own data, in a file that its configuration names as ``holdings``. It reads no
other file, tells which speakers it holds if the server asks, and evaluates the models it receives.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any, cast

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from fedser.client.corpora.base import EMOTIONS
from fedser.client.encryption.key_holder import KeyHolder, SignedKey
from fedser.client.holdings import FederationData, Holdings
from fedser.client.messages import (
    CIPHERTEXTS,
    CLIENTS,
    PARTS,
    PUBLIC_KEY,
    SEALED,
    SHARES,
    SIGNATURES,
    Columns,
    from_bundles,
    from_record,
    from_session,
    from_table,
    to_bundles,
    to_record,
    to_table,
)
from fedser.client.models.base import initial_arrays, load_arrays
from fedser.client.models.mlp import Mlp
from fedser.client.privacy.base import NoMechanism
from fedser.client.privacy.distributed import DistributedDP
from fedser.client.privacy.pruning import gather, in_one_order, unpacked
from fedser.client.secure_aggregation.keys import Identity, Peers, load_peers
from fedser.client.secure_aggregation.masks import Words
from fedser.client.secure_aggregation.members import Members
from fedser.client.secure_aggregation.session import Refused, Session
from fedser.client.speakers.public_model import PublicModel
from fedser.client.training.dataset import Dataset, Examples
from fedser.client.training.engine import LocalTraining
from fedser.client.training.evaluation import confusion_matrices
from fedser.client.training.request import Hosting, TrainRequest
from fedser.client.training.task import LocalTask
from fedser.common.arrays import Arrays
from fedser.common.jit import compiling_alone
from fedser.common.seeds import NoiseSource, SystemEntropy, noise_source
from fedser.common.threads import cores, spread
from fedser.conf.training_keys import TrainingConfig

Masking = Callable[[int, Sequence[Words]], None]
"""Adds the masks of a client to the parts of its vector."""

MAX_CHUNK = {"cpu": 16, "cuda": 1024}
"""Maximum number of clients trained together; on a CPU their weights must fit its caches."""

_LOCK = Lock()

MIN_CLIENTS_PER_THREAD = 2
"""Minimum number of clients per thread; below it one thread is used."""


def hide_error_details(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Report only the type of an error of a node with its own data.

    Flower sends the text of an error to the server, and the text could name files.
    """
    if "holdings" not in context.node_config:
        return call_next(message, context)
    try:
        return call_next(message, context)
    except Exception as error:
        logging.exception("a message could not be answered")
        raise RuntimeError(f"{type(error).__name__}: the node's own log says more") from None


app = ClientApp(mods=[hide_error_details])


@app.query()
def roster(message: Message, context: Context) -> Message:
    """Reply with the speakers that this node holds: see `Holdings.roster`."""
    held = _holdings(str(context.node_config["holdings"]))
    content = RecordDict({"roster": ConfigRecord({"json": json.dumps(held.roster)})})
    return Message(content, reply_to=message)


@app.query("advertise")
def advertise(message: Message, context: Context) -> Message:
    """Reply with new keys of the named clients for a session of secure aggregation."""
    session, clients = _asked(message)
    bundles = node_members(context).advertise(session, clients)
    return Message(RecordDict({"bundles": to_bundles(bundles)}), reply_to=message)


@app.query("share")
def share(message: Message, context: Context) -> Message:
    """Reply with the sealed shares of the named clients, given everybody's keys."""
    session, clients = _asked(message)
    bundles = from_bundles(message.content.config_records.get("bundles"))
    sealed = node_members(context).share(session, clients, bundles)
    return Message(RecordDict({"sealed": to_table(SEALED, sealed)}), reply_to=message)


@app.query("confirm")
def confirm(message: Message, context: Context) -> Message:
    """Reply with the clients' signatures of the list of clients that are summed."""
    session, clients = _asked(message)
    survivors = [c for (c,) in _table(message, "survivors", CLIENTS)]
    signatures = node_members(context).confirm(session, clients, survivors)
    return Message(RecordDict({"signatures": to_table(SIGNATURES, signatures)}), reply_to=message)


@app.query("unmask")
def unmask(message: Message, context: Context) -> Message:
    """Reply with the shares that open the sum, given the survivors' signatures."""
    session, clients = _asked(message)
    signatures = dict(_table(message, "signatures", SIGNATURES))
    shares = node_members(context).unmask(session, clients, signatures)
    return Message(RecordDict({"shares": to_table(SHARES, shares)}), reply_to=message)


@app.query("key")
def key(message: Message, context: Context) -> Message:
    """Reply with a new public key for an encrypted sum; the secret key stays on this node."""
    made = node_key_holder(context).make(from_session(message.content.config_records["session"]))
    table = to_table(PUBLIC_KEY, [(made.content, made.signer, made.signature)])
    return Message(RecordDict({"key": table}), reply_to=message)


@app.query("decrypt")
def decrypt(message: Message, context: Context) -> Message:
    """Reply with an encrypted sum, as integers modulo 2^32 of the step of `encryption.ckks`."""
    session, clients = _asked(message)
    parts = [part for (part,) in _table(message, "parts", PARTS)]
    total = node_key_holder(context).decrypt(session, clients, parts)
    record = to_record({"sum": total.astype(np.uint32)})
    return Message(RecordDict({"arrays": record}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the named clients from the global model and reply with their protected updates.

    The reply holds ``arrays`` (each parameter stacked to (k, ...)) and ``metrics`` with
    ``clients`` of length k. The lists ``num_examples`` and ``loss`` of length k leave the node
    only if the privacy mechanism allows it. A node with its own data adds ``evaluation``: the
    flattened confusion matrices ``validation`` and ``test`` of the model that it received. The
    node's configuration gives the number of ``threads`` and, for its own data, the ``device``.
    """
    # One thread per chunk: the update of a client then depends neither on the number of threads
    # nor on the other clients of its chunk, to the last bit.
    torch.set_num_threads(1)
    text = str(message.content.config_records["config"]["request"])
    # A node with its own data imports nothing that a message names.
    request = TrainRequest.from_json(text, custom="holdings" not in context.node_config)
    start = from_record(message.content.array_records["arrays"])
    threads = int(context.node_config.get("threads", 1))
    if "holdings" not in context.node_config:
        path = _dataset_path(str(request.dataset), context)
        data, noises = _dataset(path, request.device), _simulated_noises(request)
        task = _local_task(request, start, data, noises)
        content = _train(task, request.device, threads, _masking(message, context, request))
        _prune_and_encrypt(message, context, content)
        return Message(content, reply_to=message)
    if request.hosting is None:
        raise ValueError("request.hosting is missing: this node reads no file that a message names")
    path, device = (str(context.node_config[key]) for key in ("holdings", "device"))
    own = _federation_data(path, request.hosting, request.seed, device, _public(message))
    content = RecordDict()
    if request.clients:
        # The server must not influence the noise of a real device.
        noises = [SystemEntropy() for _ in request.clients]
        task = _local_task(request, start, own.training, noises)
        content = _train(task, device, threads, _masking(message, context, request))
        _prune_and_encrypt(message, context, content)
    content["evaluation"] = _evaluate(request, start, own, threads)
    return Message(content, reply_to=message)


def warm_up(device: str) -> None:
    """Compile the training code before the first message, by training on two made-up utterances.

    If several nodes start together on a machine, one of them compiles; the others read its code.
    """
    model = Mlp(hidden=[2])
    labels = torch.zeros(2, dtype=torch.int64, device=device)
    task = LocalTask(
        algorithm="fedavg",
        model=model,
        start=initial_arrays(model, 2, len(EMOTIONS), 0),
        training=TrainingConfig(),
        mechanism=NoMechanism(),
        data=Dataset.of([Examples(torch.zeros(2, 2, device=device), labels)]),
        clients=(0,),
        seed=0,
        stream=(),
        noises=[SystemEntropy()],
    )
    with compiling_alone():
        _train(task, device, 1)


def _simulated_noises(request: TrainRequest) -> list[NoiseSource]:
    """Return the noise source of each client of a simulation."""
    stream = ("noise", request.federation, request.round, request.attempt)
    return [noise_source(request.noise_seed, *stream, client) for client in request.clients]


def _local_task(
    request: TrainRequest, start: Arrays, data: Dataset, noises: Sequence[NoiseSource]
) -> LocalTask:
    return LocalTask(
        algorithm=request.algorithm,
        model=request.model,
        start=start,
        training=request.training,
        mechanism=request.mechanism,
        data=data,
        clients=request.clients,
        seed=request.seed,
        stream=(request.federation, request.round),
        noises=noises,
    )


def _asked(message: Message) -> tuple[Session, list[int]]:
    """Return the session of a message, and the clients that are asked."""
    records = message.content.config_records
    return from_session(records["session"]), [c for (c,) in _table(message, "clients", CLIENTS)]


def _table(message: Message, name: str, columns: Columns) -> list[tuple[Any, ...]]:
    return from_table(columns, message.content.config_records.get(name))


def node_members(context: Context) -> Members:
    """Return the clients of a node that take part in secure sums."""
    with _LOCK:  # federations run side by side, and a node has one object
        return _members(context.node_id, *_key_files(context))


def node_key_holder(context: Context) -> KeyHolder:
    """Return the keys of encrypted sums that a node holds."""
    with _LOCK:
        return _key_holder(context.node_id, _key_files(context)[0])


def _key_files(context: Context) -> tuple[str, str]:
    """Return the files of a node's own key and of its peers' keys; "" for a simulation's node."""
    config = context.node_config
    return str(config.get("private-key", "")), str(config.get("peers", ""))


@cache  # a process is one node, but for tests
def _members(node_id: int, private_key: str, peers: str) -> Members:
    return Members(_identity(node_id, private_key), _peers(private_key, peers))


@cache
def _key_holder(node_id: int, private_key: str) -> KeyHolder:
    return KeyHolder(_identity(node_id, private_key))


@cache
def _identity(node_id: int, private_key: str) -> Identity:
    return Identity.load(Path(private_key)) if private_key else Identity()


@cache
def _peers(private_key: str, peers: str) -> Peers | None:
    """Return the nodes that a node sums with; None for a simulation, which trusts any node."""
    if not private_key:
        return None
    return load_peers(Path(peers)) if peers else {}


def _masking(message: Message, context: Context, request: TrainRequest) -> Masking | None:
    """Return the function that adds a client's masks; None if the mechanism sends without masks.

    The sum will be opened only if so many clients are in it that their noise is enough.
    """
    mechanism = request.mechanism
    if not (isinstance(mechanism, DistributedDP) and mechanism.masked):
        return None
    session = from_session(message.content.config_records["session"])
    if (session.cohort, session.min_clients) != (mechanism.cohort, mechanism.min_clients):
        raise Refused(
            f"the sum of {session.min_clients} of {session.cohort} clients may be opened, and the "
            f"noise is for {mechanism.min_clients} of {mechanism.cohort}"
        )
    members = [c for (c,) in _table(message, "members", CLIENTS)]
    sealed: dict[int, dict[int, bytes]] = defaultdict(dict)
    for sender, receiver, content in _table(message, "sealed", SEALED):
        sealed[receiver][sender] = content
    participants = node_members(context)

    def mask(client: int, parts: Sequence[Words]) -> None:
        participants.mask(session, client, parts, sealed.get(client, {}), members)

    return mask


def _train(task: LocalTask, device: str, threads: int, mask: Masking | None = None) -> RecordDict:
    """Return the content of the reply; `device` decides how the work is divided among threads."""
    training, mechanism = LocalTraining(task), task.mechanism
    distributed = mechanism if isinstance(mechanism, DistributedDP) else None

    def protect(chunk: slice) -> None:
        if distributed is None:
            training.protect(chunk, training.updates)
            return
        training.encode(distributed, chunk)
        if mask is not None:
            for row in range(len(task.clients))[chunk]:
                sent = [training.updates[name][row] for name in distributed.shared]
                mask(task.clients[row], [array.reshape(-1).view(np.uint32) for array in sent])

    def train_and_protect(chunk: slice) -> list[float]:
        losses = training.train(chunk)
        protect(chunk)
        return losses

    count, most = len(task.clients), MAX_CHUNK[device]
    if device == "cpu":
        parts = spread(threads, train_and_protect, chunks_of(count, threads, most))
    else:  # one large chunk keeps a GPU busier than several threads with small chunks
        parts = [training.train(chunk) for chunk in chunks_of(count, 1, most)]
        spread(threads, protect, chunks_of(count, threads, most))
    metrics = MetricRecord({"clients": list(task.clients)})
    if "num_examples" in task.mechanism.metrics:
        metrics["num_examples"] = training.sizes
    if "loss" in task.mechanism.metrics:
        metrics["loss"] = [loss for part in parts for loss in part]
    arrays = training.updates
    if distributed is not None:
        arrays = {name: array.view(np.uint32) for name, array in arrays.items()}
    return RecordDict({"arrays": to_record(arrays), "metrics": metrics})


def _prune_and_encrypt(message: Message, context: Context, content: RecordDict) -> None:
    """Leave only the coordinates that the message names in a reply, and encrypt them if it asks.

    An encrypted update is multiplied by the client's number of utterances, so that the sum of the
    ciphertexts gives the weighted mean.
    """
    if (masks := message.content.array_records.get("support")) is not None:
        updates = from_record(content.array_records["arrays"])
        content["arrays"] = to_record(gather(updates, unpacked(from_record(masks), updates)))
    if "key" not in message.content.config_records:
        return
    session = from_session(message.content.config_records["session"])
    ((public, signer, signature),) = _table(message, "key", PUBLIC_KEY)
    trusted = _peers(*_key_files(context))
    encryption = SignedKey(public, signer, signature).checked(session, trusted)
    metrics = content.metric_records["metrics"]
    clients, sizes = (cast(list[int], metrics[name]) for name in ("clients", "num_examples"))
    sent = gather(from_record(content.array_records["arrays"]), None)
    rows = in_one_order(sent).astype(np.float64)
    encrypted = [
        (client, part)
        for client, row, size in zip(clients, rows, sizes, strict=True)
        for part in encryption.encrypt(row * size, session.cohort)
    ]
    del content["arrays"]
    content["ciphertexts"] = to_table(CIPHERTEXTS, encrypted)


def _evaluate(
    request: TrainRequest, model: Arrays, own: FederationData, threads: int
) -> MetricRecord:
    recogniser = request.model.network(own.test.features.shape[-1], len(EMOTIONS)).eval()
    load_arrays(recogniser, model)
    sets = [
        (examples.features.cpu().numpy(), examples.labels.cpu().numpy())
        for examples in (own.validation, own.test)
    ]
    validation, test = (
        confusion.ravel().tolist() for confusion in confusion_matrices(recogniser, sets, threads)
    )
    return MetricRecord({"validation": validation, "test": test})


def chunks_of(count: int, threads: int, most: int) -> list[slice]:
    """Cut `count` clients into about equal chunks of at most `most`, equally many per thread.

    Few clients stay on one thread: threads with small computations slow each other down.
    """
    if count < MIN_CLIENTS_PER_THREAD * threads:
        threads = 1
    number = threads * -(-count // (threads * most))
    cuts = [count * i // number for i in range(number + 1)] if number else []
    return [slice(i, j) for i, j in pairwise(cuts)]


def _dataset_path(dataset: str, context: Context) -> str:
    """Return the path of a file on this node: in its own ``workspace`` if it has one."""
    folder = context.node_config.get("workspace")
    return str(Path(str(folder), Path(dataset).name)) if folder else dataset


@lru_cache(maxsize=1)
def _holdings(path: str) -> Holdings:
    return Holdings.load(Path(path))


@lru_cache(maxsize=8)  # federations that alternate
def _federation_data(
    path: str, hosting: Hosting, seed: int, device: str, public: PublicModel | None
) -> FederationData:
    return _holdings(path).federation_data(hosting, seed, device, public)


def _public(message: Message) -> PublicModel | None:
    """Return the projection that the server sent with the model, if there is one."""
    record = message.content.array_records.get("public")
    if record is None:
        return None
    return PublicModel.of(from_record(record), frozenset())


@lru_cache(maxsize=max(2, cores()))  # federations that run at the same time
def _dataset(path: str, device: str) -> Dataset:
    """Read the clients' data once per process, onto the device that trains."""
    return Dataset.load(Path(path), device)
