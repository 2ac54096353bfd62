"""A Flower grid with Ray actors as nodes, on this machine or on a Ray cluster.

Flower's own simulation engine polls for messages every 100 ms, so no round can be shorter. Here the
server waits for Ray directly. Arrays travel through Ray's shared memory: an array that arrives is
read-only and not a copy. Each actor runs the same ClientApp that a Flower SuperNode runs.

Every machine of a cluster needs the Python and Ray version of this machine, and the packages that
fedser depends on. fedser itself and the clients' training data are copied there.
"""

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import Any, TypeVar, cast

import ray
from flwr.app import Error, Message, UserConfig
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from ray._private.utils import estimate_available_memory
from ray.exceptions import AuthenticationError, RayError, RayTaskError

import fedser
from fedser import client, common, conf, server
from fedser.common.errors import UserError
from fedser.common.private_folder import private_folder
from fedser.common.threads import cores
from fedser.server.grids.local import (
    DirectGrid,
    LocalGrid,
    Server,
    Stopped,
    node_context,
    sharing_cores,
)
from fedser.server.grids.progress import BarState, RemoteBars, hide_bars
from fedser.server.grids.ray_auth import given_token, own_token

CHECK_SECONDS = 1.0
"""A grid that waits for replies checks this often (seconds) whether it was stopped."""

SHOW_SECONDS = 0.5
"""Seconds between two updates of the progress bars."""

START_SECONDS = 300.0
"""Time for workers to start; on a cluster they may have to wait for other users."""

CONNECT_SECONDS, CLEAN_UP_SECONDS = 10.0, 10.0

MIN_STORE_BYTES = 2**29
"""With less shared memory than this, Ray chooses itself where to keep objects."""

T = TypeVar("T")

SharedFile = tuple[str, "ray.ObjectRef[bytes]"] | None
"""Name and bytes of a file."""


class Node:
    """A node in a Ray actor: the ClientApp, and a folder for the shared file.

    Parameters
    ----------
    node_id : int
        Id of the node in the grid.
    threads : int
        Threads on which the node trains.
    """

    def __init__(self, client_app: ClientApp, node_id: int, threads: int) -> None:
        self._client_app, self._node_id, self._threads = client_app, node_id, threads
        self._bar_states = hide_bars()
        self._folder, self._file = ExitStack(), Path()

    def ready(self) -> None:
        """Return once the actor has started."""

    # A message is not sent again if the node dies while it answers: its update may have left
    # already. All other calls, and messages sent later, wait until the node has started again.
    @ray.method(max_task_retries=0)
    def answer(self, message: Message, shared: SharedFile) -> Message:
        """Run the ClientApp on a message; return an error message if it fails."""
        try:
            config = UserConfig({"threads": self._threads})
            if shared:
                config["workspace"] = self._fetch(*shared)
            return self._client_app(message, node_context(self._node_id, config))
        except Exception as error:
            reason = f"{type(error)}:<'{error}'>"  # the format of Flower's engine
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)

    @ray.method(max_task_retries=0)
    def serve(self, server: Server[T], folder: str, device: str) -> T:
        """Run a whole server over this node only, without messages to other nodes."""
        with sharing_cores():
            return server(LocalGrid(self._client_app, self._threads), Path(folder), device)

    @ray.method(concurrency_group="progress")
    def progress(self) -> list[BarState]:
        """Return the states of the progress bars of servers."""
        return list(self._bar_states.values())

    def clean_up(self) -> None:
        """Remove the files that this node wrote to its machine."""
        self._folder.close()

    def _fetch(self, name: str, content: "ray.ObjectRef[bytes]") -> str:
        """Replace the file of this node by this one, and return its folder."""
        if self._file.name != name:
            self.clean_up()
            self._file = self._folder.enter_context(private_folder()) / name
            self._file.write_bytes(ray.get(content))
        return str(self._file.parent)


class RayGrid(DirectGrid):
    """A grid over Ray actors.

    If a node dies, its reply is an error, and the node is started again.

    Parameters
    ----------
    nodes : mapping of int to actor handle
        Actors of `Node`, by node id.
    elsewhere : bool
        Whether nodes may run on other machines, which do not see the files of this machine.
    threads : int
        Threads for the server while nodes wait for it.
    """

    def __init__(self, nodes: Mapping[int, Any], elsewhere: bool = False, threads: int = 1) -> None:
        super().__init__(threads)
        self._nodes, self._elsewhere = dict(nodes), elsewhere
        self._shared: SharedFile = None
        self._pending: dict[str, tuple[ray.ObjectRef[Message], Message]] = {}

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes, also of nodes that are starting again."""
        return list(self._nodes)

    def share_file(self, path: Path) -> None:
        """Send a file with all later messages; it replaces the file that was shared before."""
        if self._elsewhere:
            self._shared = path.name, ray.put(path.read_bytes())

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages that have arrived; each reply is returned once."""
        pending = {self._pending[i][0]: i for i in message_ids if i in self._pending}
        if not pending:
            return []
        ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0)
        return [_reply(*self._pending.pop(pending[reply])) for reply in ready]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return the replies that arrive within `timeout` seconds; later ones are lost."""
        sent = self.push_messages(messages)
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        waiting = [self._pending[i][0] for i in sent]
        while waiting and (left := deadline - time.monotonic()) > 0:
            limit = min(left, CHECK_SECONDS)
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=limit)
            self._raise_if_stopped()
        replies = self.pull_messages(sent)
        for message_id in sent:
            self._pending.pop(message_id, None)
        return replies

    def _submit(self, message_id: str, message: Message) -> None:
        node = self._nodes[message.metadata.dst_node_id]
        self._pending[message_id] = node.answer.remote(message, self._shared), message


class RayServerSlot:
    """A worker that runs whole servers, one at a time.

    Parameters
    ----------
    node : actor handle
        An actor of `Node`.
    """

    def __init__(self, node: Any) -> None:
        self._node, self._stopped = node, Event()

    def serve(self, server: Server[T], folder: Path, device: str) -> T:
        """Run a server in the worker; return or raise what it returns or raises."""
        reply, bars = self._node.serve.remote(server, str(folder), device), RemoteBars()
        try:
            while not ray.wait([reply], timeout=SHOW_SECONDS)[0]:
                if self._stopped.is_set():
                    raise Stopped
                bars.update(ray.get(self._node.progress.remote()))
            bars.update(ray.get(self._node.progress.remote()))
            return cast(T, ray.get(reply))
        except RayTaskError as error:
            raise error.cause from None
        finally:
            bars.close()

    def stop(self) -> None:
        """End the server that runs now, at once."""
        self._stopped.set()
        ray.kill(self._node)


def _reply(reply: "ray.ObjectRef[Message]", message: Message) -> Message:
    try:
        return ray.get(reply)
    except RayError as error:  # the node died, or the answer was lost
        return Message(Error(ErrorCode.UNKNOWN, str(error)), reply_to=message)


@contextmanager
def ray_grids(
    client_app: ClientApp, resources: Mapping[str, float], address: str | None, num_servers: int
) -> Iterator[list[RayGrid] | list[RayServerSlot]]:
    """Start Ray or join a cluster, and divide its workers among servers.

    If there are at least as many servers as workers, then each server runs inside a worker.
    Otherwise servers run in this process, over grids of workers. On a cluster servers always run
    in this process, because workers of other machines do not see the files of this machine.

    Parameters
    ----------
    resources : mapping
        CPUs and GPUs per worker; as many workers start as fit.
    address : str or None
        Address of the cluster to join; None starts Ray on this machine.
    num_servers : int
        Number of servers to run.

    Raises
    ------
    UserError
        If no worker fits, or if there is no cluster at the address.
    """
    with _ray(address):
        nodes = _start(client_app, resources)
        numbered = list(enumerate(nodes, start=1))
        count = min(num_servers, len(nodes))
        try:
            if address is None and num_servers >= len(nodes):
                yield [RayServerSlot(node) for node in nodes]
                return
            threads = max(1, cores() // count)
            yield [
                RayGrid(dict(numbered[i::count]), address is not None, threads)
                for i in range(count)
            ]
        finally:
            if address is not None:
                calls = [node.clean_up.remote() for node in nodes]
                ray.wait(calls, num_returns=len(calls), timeout=CLEAN_UP_SECONDS)


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is not None:
        _check_address(address)
    with own_token() if address is None else given_token(address):
        _init(address, options)
        try:
            yield
        finally:
            ray.shutdown()


def _init(address: str | None, options: dict[str, Any]) -> None:
    """Start Ray, or join a cluster."""
    if address is not None:
        try:
            with _keep_sigterm_handler(), private_folder() as folder:
                code = {"py_modules": [str(_copy_code(folder))]}  # comes before an installed fedser
                ray.init(address, runtime_env=code, **options)
        except (AuthenticationError, ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"runtime.ray_address={address}: {str(error).splitlines()[0]}"
            ) from error
    else:
        options |= {"num_cpus": cores(), "object_store_memory": _store_bytes()}
        with _import_path_for_workers(), _keep_sigterm_handler(), _explain_long_path():
            ray.init("local", include_dashboard=False, **options)


def _copy_code(folder: Path) -> Path:
    """Copy the packages of client and server to one package, as it is when installed."""
    copied, leave = folder / "fedser", shutil.ignore_patterns("__pycache__")
    shutil.copytree(fedser.__path__[0], copied, ignore=leave)
    for room in (client, common, conf, server):
        name = room.__name__.removeprefix("fedser.")
        shutil.copytree(room.__path__[0], copied / name, ignore=leave, dirs_exist_ok=True)
    return copied


@contextmanager
def _explain_long_path() -> Iterator[None]:
    """Raise an error with the temporary folder if its path is too long for Ray's sockets."""
    try:
        yield
    except OSError as error:
        if "AF_UNIX path length" not in str(error):
            raise
        folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
        raise UserError(
            f"runtime=ray: the path of the temporary folder {folder} is too long for Ray's "
            "sockets; set RAY_TMPDIR to a short one, such as /tmp, or runtime=local"
        ) from error


@contextmanager
def _keep_sigterm_handler() -> Iterator[None]:
    """Keep this process' handler of SIGTERM: Ray replaces it with one that exits."""
    own = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        signal.signal(signal.SIGTERM, own)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, own)


def _check_address(address: str) -> None:
    """Reject an address where nothing listens: Ray would try it for many minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise UserError(f"runtime.ray_address={address}: no Ray cluster there ({error})") from error


def _store_bytes() -> int | None:
    """Return half of the free shared memory as the limit of Ray's object store.

    A cohort of 1,000 clients replies with more than 1 GB, so the store must be large. Ray does not
    start if the limit is above half of the free memory. None lets Ray choose.
    """
    try:
        spare: int = estimate_available_memory()  # type: ignore[no-untyped-call]
        free = min(shutil.disk_usage("/dev/shm").free, spare)
        half = free // 2
    except OSError:
        return None
    return half if half >= MIN_STORE_BYTES else None


@contextmanager
def _import_path_for_workers() -> Iterator[None]:
    """Make processes that Ray starts import from the same folders as this process.

    PYTHONPATH is used because they inherit it. With a runtime environment Ray could not use the
    workers that it starts in advance.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*sys.path, before]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _start(client_app: ClientApp, resources: Mapping[str, float]) -> list[Any]:
    """Start as many workers as fit, all at once, and wait until they have started."""
    cpus, gpus = resources.get("num_cpus", 1), resources.get("num_gpus", 0)
    machines: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    fitting = sum(_workers_that_fit(machine, cpus, gpus) for machine in machines)
    if not fitting:
        raise UserError(
            f"runtime.client_resources: no machine of Ray has {cpus:g} CPU(s) and {gpus:g} GPU(s); "
            "lower them"
        )
    remote: Any = ray.remote
    actor = remote(
        max_restarts=-1,
        max_task_retries=-1,
        num_cpus=cpus,
        num_gpus=gpus,
        concurrency_groups={"progress": 1},
    )(Node)
    nodes = [
        actor.remote(client_app, number, max(1, int(cpus))) for number in range(1, fitting + 1)
    ]
    calls = [node.ready.remote() for node in nodes]
    started, late = ray.wait(calls, num_returns=len(calls), timeout=START_SECONDS)
    ray.get(started)
    if late:
        raise UserError(
            f"runtime: {len(late)} of {fitting} Ray workers did not start within "
            f"{START_SECONDS:.0f} s; are the cluster's CPUs or GPUs taken?"
        )
    return nodes


def _workers_that_fit(machine: Mapping[str, Any], cpus: float, gpus: float) -> int:
    has = machine["Resources"] if machine["Alive"] else {}
    by_cpu = int(has.get("CPU", 0) / cpus)
    return min(by_cpu, int(has.get("GPU", 0) / gpus)) if gpus else by_cpu
