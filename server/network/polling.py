"""Wait for the replies of real nodes, and fetch each reply on its own."""

import threading
import time
from collections.abc import Iterable
from queue import Empty, SimpleQueue
from threading import Event, Thread
from types import MethodType

import httpx
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.serverapp import Grid

POLL_SECONDS = 0.25
"""Seconds between two requests for a reply; Flower's grid takes 3 s."""

LATE_POLL_SECONDS = 5.0
"""Seconds between two requests for a late reply, for which no round waits any more."""

CLOCK_DIFFERENCE_SECONDS = 300.0
"""Largest difference between the clocks of two machines."""


def poll_each_reply(grid: Grid) -> None:
    """Make a grid of Flower fetch each reply on its own, and more often than every 3 s.

    A node may send anything as its reply. A reply that Flower cannot read, or that claims to
    answer another message, becomes an error of this node only. A node that ends while it sends a
    reply delays no other node. Messages without a reply in time are taken back, and late replies
    are fetched and dropped: otherwise the SuperLink would keep their arrays until the run ends.
    """

    def send_and_receive(
        self: Grid, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        pushed = list(messages)
        if timeout is not None:
            for message in pushed:
                message.metadata.ttl = timeout + CLOCK_DIFFERENCE_SECONDS
        waiting = {i: m for i, m in zip(self.push_messages(pushed), pushed, strict=True) if i}
        deadline = time.monotonic() + (threading.TIMEOUT_MAX if timeout is None else timeout)
        arrived: SimpleQueue[Message | Exception] = SimpleQueue()
        round_over = Event()
        replies: list[Message] = []
        for message_id, message in waiting.items():
            fetch = (self, message_id, message, round_over, arrived)
            Thread(target=_fetch, args=fetch, daemon=True).start()
        try:
            while len(replies) < len(waiting):
                found = arrived.get(timeout=max(0.0, deadline - time.monotonic()))
                if isinstance(found, Exception):
                    raise found
                replies.append(found)
        except Empty:
            answered = {reply.metadata.reply_to_message_id for reply in replies}
            _take_back(self, waiting.keys() - answered)
        finally:
            round_over.set()
        return replies

    grid.__dict__["send_and_receive"] = MethodType(send_and_receive, grid)


def _fetch(
    grid: Grid,
    message_id: str,
    sent: Message,
    round_over: Event,
    arrived: "SimpleQueue[Message | Exception]",
) -> None:
    """Poll for the reply to a message until it arrives or the message has expired."""
    expires = sent.metadata.created_at + sent.metadata.ttl
    try:
        while time.time() < expires:
            if reply := _pull(grid, message_id, sent):
                arrived.put(reply)
                return
            if round_over.wait(POLL_SECONDS):
                time.sleep(LATE_POLL_SECONDS)
    except Exception as error:
        arrived.put(error)


def _pull(grid: Grid, message_id: str, sent: Message) -> Message | None:
    """Return the reply to a message if it has arrived; an error if it is not a usable reply."""
    try:
        for reply in grid.pull_messages([message_id]):
            if reply.metadata.reply_to_message_id == message_id:
                return reply
            reason = "a reply that claims to answer another message"
            return Message(Error(ErrorCode.UNKNOWN, reason), reply_to=sent)
    except httpx.HTTPError:  # of the SuperLink
        raise
    except Exception as error:
        reason = f"a reply that cannot be read: {error!r}"
        return Message(Error(ErrorCode.UNKNOWN, reason), reply_to=sent)
    return None


def _take_back(grid: Grid, message_ids: Iterable[str]) -> None:
    """Make the SuperLink drop these messages; a node that has not read them cannot any more."""
    from flwr.superlink.grid import HttpGrid  # slow to import, with SQLAlchemy

    if isinstance(grid, HttpGrid):
        for message_id in message_ids:
            grid._runtime_client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(
                    node=grid.node, run_id=grid.run.run_id, message_object_id=message_id
                )
            )
