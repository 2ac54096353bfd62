"""Check a node's reply against the request; anything else is rejected, by a named reason.

A reply may hold anything. It is compared with the request before any part of it is converted, and
before memory is taken for it. Nothing is unpickled.
"""

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import flwr.app
import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from fedser.client import messages
from fedser.client.corpora.base import EMOTIONS
from fedser.common.arrays import Arrays, Ints

REASONS = {
    "missing": "no reply in time",
    "failed": "the node replied with an error",
    "refused": "the request is outside the policy of its node",
    "records": "arrays or metrics are missing, or there are other arrays than requested",
    "clients": "it is about other clients than the request",
    "dtype": "an array is not of the type that its mechanism sends",
    "shape": "an array does not have the model's shape with one row per client",
    "encoding": "the bytes of an array do not fit its type and shape",
    "num_examples": "a number of utterances is below 1 or above what the client holds",
    "loss": "a loss is not a finite number of at least 0",
    "not_finite": "an update holds NaN or infinity",
    "ciphertext": "an encrypted update cannot be read, or has other parameters or a wrong length",
    "size": "an update is larger than training or the cohort allows; its client was named",
    "vanished": "its node, or the node with the key, took no part in the sum before the update",
    "unopened": "the sum that holds it could not be opened",
    "evaluation": "a node sent no confusion tables, or tables of other utterances than its own",
    "duplicate": "a second reply to a message",
    "unasked": "a reply to no message of this round: late, replayed or made up",
}
"""Why a requested update is not in a round. ``evaluation`` counts nodes, not updates; the last two
count further replies."""

TABLES = ("validation", "test")
"""Confusion tables that a node with data of its own sends for a model."""

LARGEST = float(np.finfo(np.float32).max)

Share = tuple[int, ...]
"""Clients of the cohort that one node is asked to train, ascending."""


class Rejected(Exception):
    """No part of a reply can be used; the only argument is one of `REASONS`."""


@dataclass(frozen=True)
class CheckedReply:
    """The checked content of a reply about k clients.

    Attributes
    ----------
    arrays : Arrays
        Updates (k, ...), not checked for NaN and infinity.
    num_examples : ndarray of int64, shape (k,)
        1 if the number is withheld, 0 if it is wrong.
    losses : sequence of float, length k or 0
        Empty if losses are withheld.
    rejected : dict of int to str
        Rows that cannot be used, with the reason.
    """

    arrays: Arrays
    num_examples: Ints
    losses: Sequence[float]
    rejected: dict[int, str]


def match(
    replies: Iterable[Message], sent: Iterable[tuple[Message, Share]], rejections: Counter[str]
) -> list[tuple[Message, Share]]:
    """Return one reply to each message, with the clients it was asked for, sorted by clients.

    Parameters
    ----------
    sent : iterable of (Message, tuple of int)
        Messages after the grid has given them ids, with the clients of each.
    rejections : Counter
        Counts the clients without a reply, and replies that answer no message.
    """
    asked = {m.metadata.message_id: (m.metadata.dst_node_id, share) for m, share in sent}
    found: dict[str, Message] = {}
    for reply in sorted(replies, key=Message.has_error):  # an error replaces no update
        answers = reply.metadata.reply_to_message_id
        node, _ = asked.get(answers, (None, ()))
        # Flower itself may report an error in place of a node.
        if node is None or (reply.has_content() and reply.metadata.src_node_id != node):
            rejections["unasked"] += 1
        elif answers in found:
            rejections["duplicate"] += 1
        else:
            found[answers] = reply
    for message_id, (_, share) in asked.items():
        if message_id not in found:
            rejections["missing"] += len(share)
    return sorted(((found[i], asked[i][1]) for i in found), key=lambda pair: pair[1])


def read_reply(
    content: RecordDict,
    clients: Sequence[int],
    model: Arrays,
    metrics: Sequence[str],
    client_sizes: Sequence[int],
    dtype: str = "float32",
) -> CheckedReply:
    """Check a reply against the request; a wrong number rejects only its own client if possible.

    Parameters
    ----------
    clients : sequence of int, length k
        Clients that the node was asked for.
    model : Arrays
        Gives the names and shapes of an update.
    metrics : sequence of str
        Metrics that may leave a device beside its update; others are ignored.
    client_sizes : sequence of int
        Training utterances of each client of the federation: an update may not claim more.
    dtype : str
        ``float32``, or ``uint32`` for a mechanism that sends integers.

    Raises
    ------
    Rejected
        If no part of the reply can be used.
    """
    arrays = content.get("arrays")
    if (
        not isinstance(arrays, ArrayRecord)
        or len(content.array_records) > 1
        or set(arrays) != set(model)
    ):
        raise Rejected("records")
    checked = _read_metrics(content, clients, metrics, client_sizes)
    updates = {
        n: _read_array(arrays[n], (len(clients), *like.shape), dtype) for n, like in model.items()
    }
    return replace(checked, arrays=updates)


def read_encrypted_reply(
    content: RecordDict,
    clients: Sequence[int],
    metrics: Sequence[str],
    client_sizes: Sequence[int],
) -> tuple[CheckedReply, list[list[bytes]]]:
    """Check a reply with ciphertexts; return it without arrays, and the ciphertexts of each row.

    The ciphertexts are not interpreted. Parameters and errors as of `read_reply`.
    """
    try:
        rows = messages.from_table(messages.CIPHERTEXTS, content.config_records.get("ciphertexts"))
    except ValueError:
        raise Rejected("records") from None
    checked = _read_metrics(content, clients, metrics, client_sizes)
    parts: dict[int, list[bytes]] = {client: [] for client in clients}
    for client, part in rows:
        if client not in parts:
            raise Rejected("clients")
        parts[client].append(part)
    return checked, [parts[client] for client in clients]


def read_sum(content: RecordDict, size: int) -> Ints:
    """Return the integers (size,) of a decrypted sum; raise Rejected if there are none."""
    arrays = content.get("arrays")
    if not isinstance(arrays, ArrayRecord) or set(arrays) != {"sum"}:
        raise Rejected("records")
    return _read_array(arrays["sum"], (size,), "uint32").view(np.int32).astype(np.int64)


def _read_metrics(
    content: RecordDict,
    clients: Sequence[int],
    metrics: Sequence[str],
    client_sizes: Sequence[int],
) -> CheckedReply:
    """Check the metrics of a reply; return it without arrays."""
    sent_metrics = content.get("metrics")
    if not isinstance(sent_metrics, MetricRecord):
        raise Rejected("records")
    if sent_metrics.get("clients") != list(clients):
        raise Rejected("clients")
    columns = {name: _column(sent_metrics, name, len(clients)) for name in metrics}
    losses, sizes = columns.get("loss", []), columns.get("num_examples", [1] * len(clients))
    rejected = _rejected_rows(losses, sizes, [client_sizes[client] for client in clients])
    counted = [0 if row in rejected else size for row, size in enumerate(sizes)]
    return CheckedReply({}, np.array(counted, np.int64), losses, rejected)


def _rejected_rows(
    losses: Sequence[Any], sizes: Sequence[Any], max_sizes: Sequence[int]
) -> dict[int, str]:
    """Return the rows with a wrong number, with the reason for each."""
    rejected: dict[int, str] = {}
    for row, loss in enumerate(losses):
        if not (isinstance(loss, float) and 0 <= loss <= LARGEST):
            rejected[row] = "loss"
    for row, (size, largest) in enumerate(zip(sizes, max_sizes, strict=True)):
        if not (isinstance(size, int) and 1 <= size <= largest):
            rejected[row] = "num_examples"
    return rejected


def _column(metrics: MetricRecord, name: str, length: int) -> list[Any]:
    values = metrics.get(name)
    if not isinstance(values, list) or len(values) != length:
        raise Rejected("records")
    return values


def read_evaluation(content: RecordDict, num_utterances: Mapping[str, int]) -> dict[str, Ints]:
    """Check a node's confusion tables of the model that it was sent.

    Parameters
    ----------
    num_utterances : mapping of str to int
        Utterances that the node evaluates on, for each of `TABLES`.

    Returns
    -------
    dict of str to ndarray of int64, shape (classes, classes)
        Utterances by true (row) and predicted (column) class, for each of `TABLES`.

    Raises
    ------
    Rejected
        If a table is missing, or does not hold the number of utterances given.
    """
    record, num_cells = content.get("evaluation"), len(EMOTIONS) ** 2
    if not isinstance(record, MetricRecord) or set(record) != set(TABLES):
        raise Rejected("evaluation")
    tables = {}
    for name in TABLES:
        counts = record[name]
        if (
            not isinstance(counts, list)
            or len(counts) != num_cells
            or not all(isinstance(count, int) and count >= 0 for count in counts)
            or sum(counts) != num_utterances[name]
        ):
            raise Rejected("evaluation")
        tables[name] = np.array(counts, np.int64).reshape(len(EMOTIONS), -1)
    return tables


def error_text(reply: Message) -> str:
    """Return the text of an error reply on one line, printable and short: a node wrote it."""
    shown = "".join(c if c.isprintable() else " " for c in (reply.error.reason or "")[:1000])
    return textwrap.shorten(shown, 200)


def _read_array(
    sent: flwr.app.Array, shape: tuple[int, ...], dtype: str
) -> npt.NDArray[np.float32]:
    """Return an array without a copy; its bytes are not interpreted."""
    if sent.dtype != dtype:
        raise Rejected("dtype")
    if sent.shape != shape:
        raise Rejected("shape")
    if isinstance(sent, messages.Array):  # sent within this machine, never as bytes
        return sent.numpy().astype(dtype, copy=False)
    header, data = _header(shape, dtype), sent.data
    size = len(header) + 4 * math.prod(shape)
    if sent.stype != "numpy.ndarray" or len(data) != size or not data.startswith(header):
        raise Rejected("encoding")
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<"), offset=len(header)).reshape(shape)


def _header(shape: tuple[int, ...], dtype: str) -> bytes:
    """Return the header that NumPy writes before the bytes of an array."""
    written = BytesIO()
    header = {
        "descr": np.dtype(dtype).newbyteorder("<").str,
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(written, header)
    return written.getvalue()
