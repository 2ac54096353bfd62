"""A Flower grid whose nodes are Ray actors, on this machine or all over a Ray cluster.

Flower's own simulation engine looks for messages every 100 ms, so that no round is shorter;
here the server waits on Ray itself. Arrays travel through Ray's shared memory: what arrives is
read-only and not a copy. The very ClientApp that a Flower SuperNode runs answers in each actor.

Every machine of a cluster needs the Python and Ray version of this one, and what fedser
depends on. fedser itself is brought along, and so is the clients' training data.
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
from fedser.server.grids.progress import Shown, Told, tell
from fedser.server.grids.ray_auth import given_token, own_token

PATIENCE = 1.0
"""Seconds until a grid that waits for replies notices that it was stopped."""

SHOW_SECONDS = 0.5
"""Between two looks at how far a server is."""

START_SECONDS = 300.0
"""Until workers must have started; on a cluster they may have to wait for its other users."""

CONNECT_SECONDS, LEAVE_SECONDS = 10.0, 10.0

LEAST_STORE = 2**29
"""Bytes of shared memory; with less Ray had better keep objects elsewhere."""

T = TypeVar("T")

Offered = tuple[str, "ray.ObjectRef[bytes]"] | None
"""Name and bytes of a file."""


class Node:
    """What runs in an actor: the ClientApp, and the folder where it finds what is offered.

    Parameters
    ----------
    node_id : int
        The grid's name for it.
    threads : int
        On how many it trains.
    """

    def __init__(self, client_app: ClientApp, node_id: int, threads: int) -> None:
        self._client_app, self._node_id, self._threads = client_app, node_id, threads
        self._told = tell()
        self._folder, self._held = ExitStack(), Path()

    def ready(self) -> None:
        """Answer once the actor has started."""

    # A message is not sent a second time to a node that died over it: an update may have left
    # already. All other calls, and messages sent meanwhile, wait for the node to be back.
    @ray.method(max_task_retries=0)
    def answer(self, message: Message, offered: Offered) -> Message:
        """Run the ClientApp on a message; its failure is an answer, too."""
        try:
            config = UserConfig({"threads": self._threads})
            if offered:
                config["workspace"] = self._fetch(*offered)
            return self._client_app(message, node_context(self._node_id, config))
        except Exception as error:
            reason = f"{type(error)}:<'{error}'>"  # in the words of Flower's engine
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)

    @ray.method(max_task_retries=0)
    def serve(self, server: Server[T], folder: str, device: str) -> T:
        """Run a whole server, over this node alone and without any message to others."""
        with sharing_cores():
            return server(LocalGrid(self._client_app, self._threads), Path(folder), device)

    @ray.method(concurrency_group="progress")
    def progress(self) -> list[Told]:
        """Return what the progress bars of servers say."""
        return list(self._told.values())

    def leave(self) -> None:
        """Remove what was written to this machine."""
        self._folder.close()

    def _fetch(self, name: str, content: "ray.ObjectRef[bytes]") -> str:
        """Hold this file alone, in a folder of this node, and return the folder."""
        if self._held.name != name:
            self.leave()
            self._held = self._folder.enter_context(private_folder()) / name
            self._held.write_bytes(ray.get(content))
        return str(self._held.parent)


class RayGrid(DirectGrid):
    """A grid over Ray actors.

    A node that dies leaves an error in place of its reply, and is started again.

    Parameters
    ----------
    nodes : mapping of int to actor handle
        Actors of `Node`, by the id that each keeps.
    elsewhere : bool
        Whether nodes may run on other machines, which do not see this one's files.
    threads : int
        For the server, while nodes wait for it.
    """

    def __init__(self, nodes: Mapping[int, Any], elsewhere: bool = False, threads: int = 1) -> None:
        super().__init__(threads)
        self._nodes, self._elsewhere = dict(nodes), elsewhere
        self._offered: Offered = None
        self._pending: dict[str, tuple[ray.ObjectRef[Message], Message]] = {}

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes, dead or alive."""
        return list(self._nodes)

    def offer(self, path: Path) -> None:
        """Send a file with the next messages, in place of one that was offered before."""
        if self._elsewhere:
            self._offered = path.name, ray.put(path.read_bytes())

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to these messages that are there, once."""
        asked = {self._pending[i][0]: i for i in message_ids if i in self._pending}
        if not asked:
            return []
        ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0)
        return [_reply(*self._pending.pop(asked[reply])) for reply in ready]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return the replies that arrive within `timeout` seconds; later ones are lost."""
        sent = self.push_messages(messages)
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        waiting = [self._pending[i][0] for i in sent]
        while waiting and (left := deadline - time.monotonic()) > 0:
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=min(left, PATIENCE))
            self._check()
        replies = self.pull_messages(sent)
        for message_id in sent:
            self._pending.pop(message_id, None)
        return replies

    def _submit(self, message_id: str, message: Message) -> None:
        node = self._nodes[message.metadata.dst_node_id]
        self._pending[message_id] = node.answer.remote(message, self._offered), message


class Host:
    """A worker that runs whole servers, one at a time, far from all others.

    Parameters
    ----------
    node : actor handle
        Of a `Node`.
    """

    def __init__(self, node: Any) -> None:
        self._node, self._stopped = node, Event()

    def serve(self, server: Server[T], folder: Path, device: str) -> T:
        """Return what a server returns, or raise what it raises."""
        reply, shown = self._node.serve.remote(server, str(folder), device), Shown()
        try:
            while not ray.wait([reply], timeout=SHOW_SECONDS)[0]:
                if self._stopped.is_set():
                    raise Stopped
                shown.update(ray.get(self._node.progress.remote()))
            shown.update(ray.get(self._node.progress.remote()))
            return cast(T, ray.get(reply))
        except RayTaskError as error:
            raise error.cause from None
        finally:
            shown.close()

    def stop(self) -> None:
        """End the server that runs, at once."""
        self._stopped.set()
        ray.kill(self._node)


def _reply(reply: "ray.ObjectRef[Message]", message: Message) -> Message:
    try:
        return ray.get(reply)
    except RayError as error:  # the node died, or the answer was lost
        return Message(Error(ErrorCode.UNKNOWN, str(error)), reply_to=message)


@contextmanager
def ray_grids(
    client_app: ClientApp, resources: Mapping[str, float], address: str | None, most: int
) -> Iterator[list[RayGrid] | list[Host]]:
    """Start Ray or join a cluster, and share its workers out among servers.

    As many servers as there are workers, or more, each run in a worker; fewer run here over
    grids of workers. Those of a cluster do not see what a server would write here.

    Parameters
    ----------
    resources : mapping
        CPUs and GPUs of a worker: as many start as fit.
    address : str or None
        Of the cluster to join.
    most : int
        How many servers there are.

    Raises
    ------
    UserError
        If no worker fits, or there is no such cluster.
    """
    with _ray(address):
        nodes = _start(client_app, resources)
        numbered = list(enumerate(nodes, start=1))
        count = min(most, len(nodes))
        try:
            if address is None and most >= len(nodes):
                yield [Host(node) for node in nodes]
                return
            threads = max(1, cores() // count)
            yield [
                RayGrid(dict(numbered[i::count]), address is not None, threads)
                for i in range(count)
            ]
        finally:
            if address is not None:
                ray.wait(
                    [n.leave.remote() for n in nodes], num_returns=len(nodes), timeout=LEAVE_SECONDS
                )


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
            with _own_handler(), private_folder() as folder:
                code = {"py_modules": [str(_code(folder))]}  # comes before what is installed there
                ray.init(address, runtime_env=code, **options)
        except (AuthenticationError, ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"runtime.ray_address={address}: {str(error).splitlines()[0]}"
            ) from error
    else:
        options |= {"num_cpus": cores(), "object_store_memory": _store_bytes()}
        with _importable_as_here(), _own_handler(), _short_paths():
            ray.init("local", include_dashboard=False, **options)


def _code(folder: Path) -> Path:
    """Copy what clients and servers import, as the one package that it is when installed."""
    copied, leave = folder / "fedser", shutil.ignore_patterns("__pycache__")
    shutil.copytree(fedser.__path__[0], copied, ignore=leave)
    for room in (client, common, conf, server):
        name = room.__name__.removeprefix("fedser.")
        shutil.copytree(room.__path__[0], copied / name, ignore=leave, dirs_exist_ok=True)
    return copied


@contextmanager
def _short_paths() -> Iterator[None]:
    """Name the temporary folder if its path leaves no room for those of Ray's sockets."""
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
def _own_handler() -> Iterator[None]:
    """Keep this process' handler of SIGTERM: Ray puts one that exits in its place."""
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
    """Refuse an address where nothing listens, which Ray would try for many minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise UserError(f"runtime.ray_address={address}: no Ray cluster there ({error})") from error


def _store_bytes() -> int | None:
    """Return half of the shared memory that is free, of which Ray takes what it fills.

    A cohort of 1,000 clients replies with more than 1 GB. Of more than half of the memory that
    other programs leave Ray would not start. None leaves it to Ray.
    """
    try:
        spare: int = estimate_available_memory()  # type: ignore[no-untyped-call]
        free = min(shutil.disk_usage("/dev/shm").free, spare)
        half = free // 2
    except OSError:
        return None
    return half if half >= LEAST_STORE else None


@contextmanager
def _importable_as_here() -> Iterator[None]:
    """Have processes that Ray starts import from where this one does.

    Through the environment that they inherit: with a runtime environment Ray could use none of
    the workers that it starts ahead.
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
    """Start as many workers as fit, all at once, and wait until they are up."""
    cpus, gpus = resources.get("num_cpus", 1), resources.get("num_gpus", 0)
    machines: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    fitting = sum(_fitting(machine, cpus, gpus) for machine in machines)
    if not fitting:
        raise UserError(
            f"runtime.client_resources: no machine of Ray has {cpus:g} CPU(s) and {gpus:g} GPU(s)"
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


def _fitting(machine: Mapping[str, Any], cpus: float, gpus: float) -> int:
    has = machine["Resources"] if machine["Alive"] else {}
    by_cpu = int(has.get("CPU", 0) / cpus)
    return min(by_cpu, int(has.get("GPU", 0) / gpus)) if gpus else by_cpu
