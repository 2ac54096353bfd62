"""Flower grids without a SuperLink: server and ClientApp run in this process."""

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
"""A function that runs over a grid; it gets a folder for the nodes' files and a device."""


class Stopped(Exception):
    """The grid was told to stop."""


class DirectGrid(Grid):
    """A grid that passes messages to its nodes directly, without polling.

    Only one thread may use a grid; only `stop` may be called from another thread.

    Attributes
    ----------
    threads : int
        Cores of this machine for the server that uses the grid.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._run = Run.create_empty(run_id=1)
        self._ids = count(1)
        self._stopped = Event()
        # With any grid, a Message reads its sender from here; Flower's own launchers set it too.
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
        """Number the messages and pass each to its node.

        Raises
        ------
        Stopped
            After `stop`.
        """
        self._raise_if_stopped()
        sent = []
        for message in messages:
            message_id = str(next(self._ids))
            message.metadata.__dict__["_message_id"] = message_id  # as Flower's own grids do
            self._submit(message_id, message)
            sent.append(message_id)
        return sent

    def share_file(self, path: Path) -> None:
        """Let the nodes read a file of this machine: the clients' training data.

        There is nothing to do for nodes on this machine.
        """

    def serve(self, server: Server[T], folder: Path, device: str) -> T:
        """Run a server over this grid."""
        return server(self, folder, device)

    def stop(self) -> None:
        """Make the server that uses this grid fail with `Stopped` at its next message."""
        self._stopped.set()

    def _raise_if_stopped(self) -> None:
        if self._stopped.is_set():
            raise Stopped

    @abstractmethod
    def _submit(self, message_id: str, message: Message) -> None:
        """Pass a message to its node."""


class LocalGrid(DirectGrid):
    """A grid of one node in this process, which answers each message when it is sent.

    Results are the same as with nodes on Ray.

    Parameters
    ----------
    threads : int
        Threads on which the node trains.
    """

    def __init__(self, client_app: ClientApp, threads: int = 1) -> None:
        super().__init__(threads)
        self._client_app = client_app
        self._replies: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        """Return the id of the one node."""
        return [NODE_ID]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages; each reply is returned once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send the messages and return the reply to each."""
        return self.pull_messages(self.push_messages(messages))

    def _submit(self, message_id: str, message: Message) -> None:
        self._replies[message_id] = self._client_app(
            message, node_context(NODE_ID, UserConfig({"threads": self.threads}))
        )


def node_context(node_id: int, config: UserConfig) -> Context:
    """Return the context that a ClientApp gets of its node."""
    return Context(1, node_id, config, RecordDict(), UserConfig())


@contextmanager
def sharing_cores() -> Iterator[None]:
    """Turn off the threads of libraries in this process: servers start threads themselves."""
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    with threadpool_limits(1, "blas"):  # idle BLAS threads would use the cores of others
        try:
            yield
        finally:
            buffers.clear()


def threads_of(grid: Grid) -> int:
    """Return the number of cores for the server that uses a grid."""
    return grid.threads if isinstance(grid, DirectGrid) else 1


def share_file(grid: Grid, path: Path) -> None:
    """Let the nodes of a grid read a file of this machine.

    There is nothing to do for Flower's own simulation engine: its nodes run on this machine.
    """
    if isinstance(grid, DirectGrid):
        grid.share_file(path)
