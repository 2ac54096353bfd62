"""What the server accepts of a node's reply; all else is refused, by a named reason.

A reply may say anything: it is compared with what was asked before any of it is converted,
unpickled or given memory of a size that it names itself.
"""

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import flwr.app
import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from fedser.client import messages as wire
from fedser.client.corpora.base import EMOTIONS
from fedser.common.arrays import Arrays, Ints

REASONS = {
    "missing": "no reply in time",
    "failed": "the node replied with an error",
    "records": "arrays or metrics are missing, or there are other arrays than were asked for",
    "clients": "it is about other clients than were asked",
    "dtype": "an array is not of float32",
    "shape": "an array has another shape than the model's, a row a client",
    "encoding": "the bytes of an array are not those of its type and shape",
    "num_examples": "a number of utterances is not one, or above what the client holds",
    "loss": "a loss is not a finite number of at least 0",
    "not_finite": "an update holds NaN or infinity",
    "size": "an update is larger than training or the cohort allows; its client was named",
    "evaluation": "a node told nothing of the model, or no tables of just its own utterances",
    "duplicate": "a second reply to a message",
    "unasked": "a reply to no message of this round: late, replayed or made up",
}
"""Why an update that was asked for is not in a round; ``evaluation`` counts nodes that told of no
model, and the last two count further replies."""

TABLES = ("validation", "test")
"""What a node with data of its own tells of a model: how it does on either of its sets."""

LARGEST = float(np.finfo(np.float32).max)

Share = tuple[int, ...]
"""Clients of the cohort that a node is asked for, ascending."""


class Refused(Exception):
    """A reply cannot be used at all; its one argument is one of `REASONS`."""


@dataclass(frozen=True)
class CheckedReply:
    """What a reply says of k clients.

    Attributes
    ----------
    arrays : Arrays
        Updates (k, ...), not checked for NaN and infinity.
    num_examples : ndarray of int64, shape (k,)
        1 where the number is withheld.
    losses : sequence of float, length k or 0
        Empty where they are withheld.
    refused : dict of int to str
        Rows that cannot be used, and why.
    """

    arrays: Arrays
    num_examples: Ints
    losses: Sequence[float]
    refused: dict[int, str]


def match(
    replies: Iterable[Message], sent: Iterable[tuple[Message, Share]], rejections: Counter[str]
) -> list[tuple[Message, Share]]:
    """Return the one reply to each message with the clients it asked, sorted by these.

    Parameters
    ----------
    sent : iterable of (Message, tuple of int)
        The grid has filled in their ids.
    rejections : Counter
        Counts the clients without a reply, and replies that answer nothing.
    """
    asked = {m.metadata.message_id: (m.metadata.dst_node_id, share) for m, share in sent}
    found: dict[str, Message] = {}
    for reply in sorted(replies, key=Message.has_error):  # no error takes an update's place
        answers = reply.metadata.reply_to_message_id
        node, _ = asked.get(answers, (None, ()))
        # Flower itself may tell of an error in a node's place.
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
    held: Sequence[int],
) -> CheckedReply:
    """Check a reply against what was asked, a client's row by itself where that is possible.

    Parameters
    ----------
    clients : sequence of int, length k
        Those that the node was asked for.
    model : Arrays
        What their updates are shaped like.
    metrics : sequence of str
        What leaves a device beside its update; whatever else is said counts for nothing.
    held : sequence of int
        Utterances of each client of the federation: no update may claim more.

    Raises
    ------
    Refused
        If nothing of it can be used.
    """
    arrays, said = content.get("arrays"), content.get("metrics")
    if (
        not isinstance(arrays, ArrayRecord)
        or not isinstance(said, MetricRecord)
        or len(content.array_records) > 1
        or set(arrays) != set(model)
    ):
        raise Refused("records")
    if said.get("clients") != list(clients):
        raise Refused("clients")
    refused: dict[int, str] = {}
    columns: dict[str, list[Any]] = {}
    for name in metrics:
        values = said.get(name)
        if not isinstance(values, list) or len(values) != len(clients):
            raise Refused("records")
        columns[name] = values
    losses, sizes = columns.get("loss", []), columns.get("num_examples", [1] * len(clients))
    for row, loss in enumerate(losses):
        if not (isinstance(loss, float) and 0 <= loss <= LARGEST):
            refused[row] = "loss"
    for row, (client, size) in enumerate(zip(clients, sizes, strict=True)):
        if not (isinstance(size, int) and 1 <= size <= held[client]):
            refused[row] = "num_examples"
    return CheckedReply(
        {n: _read_array(arrays[n], (len(clients), *like.shape)) for n, like in model.items()},
        np.array([0 if row in refused else size for row, size in enumerate(sizes)], np.int64),
        losses,
        refused,
    )


def read_evaluation(content: RecordDict, held: Mapping[str, int]) -> dict[str, Ints]:
    """Check what a node tells of the model that it was sent.

    Parameters
    ----------
    held : mapping of str to int
        How many utterances of each set of `TABLES` the node evaluates on.

    Returns
    -------
    dict of str to ndarray of int64, shape (classes, classes)
        Of each set the utterances by true (row) and predicted (column) class.

    Raises
    ------
    Refused
        If there are no such tables, or they are of other numbers of utterances.
    """
    told, places = content.get("evaluation"), len(EMOTIONS) ** 2
    if not isinstance(told, MetricRecord) or set(told) != set(TABLES):
        raise Refused("evaluation")
    tables = {}
    for name in TABLES:
        counts = told[name]
        if (
            not isinstance(counts, list)
            or len(counts) != places
            or not all(isinstance(count, int) and count >= 0 for count in counts)
            or sum(counts) != held[name]
        ):
            raise Refused("evaluation")
        tables[name] = np.array(counts, np.int64).reshape(len(EMOTIONS), -1)
    return tables


def reason_of(reply: Message) -> str:
    """Return what an error says, whoever it is from: printable, on one line and short."""
    shown = "".join(c if c.isprintable() else " " for c in (reply.error.reason or "")[:1000])
    return textwrap.shorten(shown, 200)


def _read_array(sent: flwr.app.Array, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return an array without a copy; nothing in its bytes is interpreted."""
    if sent.dtype != "float32":
        raise Refused("dtype")
    if sent.shape != shape:
        raise Refused("shape")
    if isinstance(sent, wire.Array):  # it never was bytes
        return sent.numpy().astype(np.float32, copy=False)
    header, data = _header(shape), sent.data
    size = len(header) + 4 * math.prod(shape)
    if sent.stype != "numpy.ndarray" or len(data) != size or not data.startswith(header):
        raise Refused("encoding")
    return np.frombuffer(data, "<f4", offset=len(header)).reshape(shape)


def _header(shape: tuple[int, ...]) -> bytes:
    """Return what NumPy writes ahead of an array's bytes."""
    written = BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(written, about)
    return written.getvalue()
