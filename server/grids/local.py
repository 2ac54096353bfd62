"""Flower grids without a SuperLink: the same ServerApp and ClientApp in this process."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event
from typing import TypeVar

import torch
from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from threadpoolctl import threadpool_limits

from fedser.common import buffers

NODE_ID = 1


T = TypeVar("T")

Server = Callable[[Grid, Path, str], T]
"""What runs over a grid, given a folder for what the nodes read, and the device that trains."""


class Stopped(Exception):
    """The grid was told to stop."""


class DirectGrid(Grid):
    """A grid that hands messages to its nodes itself, so that nothing is polled for.

    A grid serves one thread; `stop` alone may be called from another.

    Attributes
    ----------
    threads : int
        How many cores of this machine are for the server that uses it.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._run = Run.create_empty(run_id=1)
        self._ids = count(1)
        self._stopped = Event()
        # A Message reads its sender from here, whatever the grid; Flower's own launchers set
        # it likewise.
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, NODE_ID

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Number the messages and hand each to its node.

        Raises
        ------
        Stopped
            After `stop`.
        """
        self._check()
        sent = []
        for message in messages:
            message_id = str(next(self._ids))
            message.metadata.__dict__["_message_id"] = message_id  # as Flower's own grids do
            self._submit(message_id, message)
            sent.append(message_id)
        return sent

    def offer(self, path: Path) -> None:
        """Let the nodes read a file of this machine, the clients' data, from now on.

        Nodes on this machine need no help.
        """

    def serve(self, server: Server[T], folder: Path, device: str) -> T:
        """Run a server over this grid."""
        return server(self, folder, device)

    def stop(self) -> None:
        """Have the server that uses this grid fail with `Stopped`, at its next message."""
        self._stopped.set()

    def _check(self) -> None:
        if self._stopped.is_set():
            raise Stopped

    @abstractmethod
    def _submit(self, message_id: str, message: Message) -> None:
        """Hand a message to its node."""


class LocalGrid(DirectGrid):
    """A grid of one node in this process, which answers messages as they are sent.

    The numbers are those of nodes on Ray.

    Parameters
    ----------
    threads : int
        On how many the node trains.
    """

    def __init__(self, client_app: ClientApp, threads: int = 1) -> None:
        super().__init__(threads)
        self._client_app = client_app
        self._replies: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        """Return the one node."""
        return [NODE_ID]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages, once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return each message's reply."""
        return self.pull_messages(self.push_messages(messages))

    def _submit(self, message_id: str, message: Message) -> None:
        self._replies[message_id] = self._client_app(
            message, node_context(NODE_ID, UserConfig({"threads": self.threads}))
        )


def node_context(node_id: int, config: UserConfig) -> Context:
    """Return what a ClientApp is told of its node."""
    return Context(1, node_id, config, RecordDict(), UserConfig())


@contextmanager
def sharing_cores() -> Iterator[None]:
    """Prepare this process to run servers, which use threads of their own and no others."""
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    with threadpool_limits(1, "blas"):  # its threads wait for more in a loop, at others' expense
        try:
            yield
        finally:
            buffers.clear()


def threads_of(grid: Grid) -> int:
    """Return how many cores are for the server that uses a grid."""
    return grid.threads if isinstance(grid, DirectGrid) else 1


def offer(grid: Grid, path: Path) -> None:
    """Let the nodes of a grid read a file of this machine.

    Those of Flower's own simulation engine run on this machine.
    """
    if isinstance(grid, DirectGrid):
        grid.offer(path)
