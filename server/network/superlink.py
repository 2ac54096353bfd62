"""Over which real clients are reached: Flower's SuperLink, and a study as its ServerApp.

The SuperLink runs in process isolation, as Flower calls it, and this process takes the task of
the ServerApp itself: what a study shows, writes and raises is that of a simulation.
"""

import hashlib
import ipaddress
import logging
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from types import MethodType
from typing import Any

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.app import Error, Message, RecordDict
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import fab_to_proto, run_from_proto
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, StartRunRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.runtime_pb2 import PullTaskInputRequest, PushTaskOutputRequest
from flwr.serverapp import Grid
from flwr.supercore.constant import TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.retry import RetryInvoker
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid
from rich.console import Console

from fedser.client.node.supernode import INSECURE
from fedser.client.node.tasks import Runtime, retries
from fedser.common.environment import proxy_hint
from fedser.common.errors import Suspended, UserError, brief
from fedser.common.private_folder import private_folder
from fedser.common.processes import command, running
from fedser.conf.schema import RuntimeConfig
from fedser.server.federation.admission import (
    BadRoster,
    choose_nodes,
    describe,
    dominant,
    merge_rosters,
    parse_roster,
    refuse_few,
)
from fedser.server.federation.remote_clients import Roster
from fedser.server.strategy.averaging import wait_for_nodes
from fedser.server.strategy.replies import match, reason_of

POLL_SECONDS = 0.25
"""Between two looks for replies; Flower's grid takes 3 s."""

LATE_SECONDS = 5.0
"""Between two looks for a reply that nobody waits for any more."""

START_SECONDS = 180.0
"""For a SuperLink to listen, and to hand out the task of a run."""

CLOCKS_SECONDS = 300.0
"""By which clocks of machines may differ."""

ANSWER_SECONDS = 120.0
"""For nodes to tell what they hold."""

APP = """[project]
name = "fedser"
version = "{version}"
description = "The app that is installed on each machine"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "fedser"
[tool.flwr.app.components]
serverapp = "fedser.server.app:app"
clientapp = "fedser.client.app:app"
[tool.flwr.app.config]
"""
"""What is submitted: names of what every machine has installed, and no code."""

console = Console(stderr=True)


@dataclass(frozen=True)
class Network:
    """A grid of real nodes.

    Attributes
    ----------
    names : mapping of int to str, or None
        The nodes that may take part, and how to call them; None (``runtime.insecure``): whoever is
        there.
    count : int
        How many nodes to start with.
    least : int
        Nodes without which there is no study, if what the others tell cannot be used.
    """

    grid: Grid
    names: Mapping[int, str] | None
    count: int
    least: int = 1

    def roster(self, patience: float) -> Roster:
        """Wait so many seconds for the nodes, and ask each once what it holds.

        Nodes that do not answer, or not as a node of this study does, are named and left out.

        Raises
        ------
        Suspended
            If nodes are missing.
        UserError
            If fewer than `least` are left.
        """
        nodes = wait_for_nodes(self.grid, self.count, patience, self.names)
        names = self.names or {node: str(node) for node in nodes}
        refused, told = self._ask(nodes)
        refused |= choose_nodes(told, names)
        told = {node: roster for node, roster in told.items() if node not in refused}
        refuse_few(refused, names, len(told), self.least)
        lines = [f"left out: {describe(refused, names)}"] if refused else []
        lines += [
            f"node {names[node]} says that it holds more than half of all utterances, by which "
            "updates are weighted"
            for node in dominant(told)
        ]
        for line in lines:
            console.print(line, style="bold red", highlight=False, markup=False, soft_wrap=True)
        return merge_rosters(told)

    def _ask(self, nodes: Sequence[int]) -> tuple[dict[int, str], dict[int, dict[str, Any]]]:
        """Return why nodes told nothing of use, and the rosters of the others."""
        asked = [(Message(RecordDict(), node, "query"), (node,)) for node in nodes]
        messages = [message for message, _ in asked]
        replies = self.grid.send_and_receive(messages, timeout=ANSWER_SECONDS)
        refused = dict.fromkeys(nodes, f"no answer in {ANSWER_SECONDS:.0f} s")
        told = {}
        for reply, (node,) in match(replies, asked, Counter()):
            del refused[node]
            if reply.has_error():
                refused[node] = f"{reason_of(reply)}; is it a fedser-node?"
                continue
            try:
                told[node] = parse_roster(_told(reply.content))
            except BadRoster as error:
                refused[node] = str(error)
        return refused, told


@contextmanager
def network(runtime: RuntimeConfig, folder: Path) -> Iterator[Network]:
    """Start a SuperLink, or join one, and run as its ServerApp meanwhile.

    Parameters
    ----------
    folder : Path
        Takes ``superlink.log``.

    Raises
    ------
    UserError
        If a key of the configuration or a file is missing, or the SuperLink does not start.
    Suspended
        If the SuperLink ends, cannot be reached for ``runtime.patience`` seconds, or does not
        know this run any more because it was started anew.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every request
    keys, authority = _files(runtime)
    address = runtime.address
    with _suspending(address), ExitStack() as stack:
        superlink = None
        if runtime.start:
            private = stack.enter_context(private_folder())
            (private / "secret").write_bytes(secrets.token_bytes(32))
            secret_file, log = private / "secret", folder / "superlink.log"
            _check_loopback(address)
            _check_free(address)
            # What it knows dies with this process; its address is to be free at once.
            superlink = stack.enter_context(
                running(_superlink(runtime, secret_file), log, orphaned=signal.SIGKILL)
            )
            if not listens(address, superlink):
                said = log.read_text().strip()[-300:]
                raise UserError(f"runtime.address={address}: the SuperLink did not start: {said}")
        else:
            secret_file = _file("secret", runtime.secret)
            if not listens(address):
                raise UserError(f"runtime.address={address}: no SuperLink is there; start it first")
        control = stack.enter_context(
            ControlHttpClient.from_server_address(
                address,
                runtime.insecure,
                authority,
                [RuntimeVersionHttpInterceptor(component_name="flwr")],
            )
        )
        names = _register(control, keys) if keys else None
        count = len(keys) or runtime.min_clients or 1
        started = control.StartRun(StartRunRequest(fab=fab_to_proto(_app())))
        retrying = retries(
            lambda: superlink is not None and superlink.poll() is not None, runtime.patience
        )
        api = Runtime(address, authority, secret_file.read_bytes(), retrying)
        grid = _grid(address, authority, stack.enter_context(api), retrying, started.run_id)
        least = runtime.min_clients or count // 2 + 1
        yield Network(stack.enter_context(grid), names, count, least)


@contextmanager
def _suspending(address: str) -> Iterator[None]:
    """Suspend a run that lost its SuperLink."""
    try:
        yield
    except (httpx.HTTPError, ObjectPushError) as error:
        raise Suspended(
            f"runtime.address={address}: the SuperLink is gone, or was started anew and does not "
            f"know this run ({brief(error)}); see to it that one can be there, then go on"
            f"{proxy_hint(address)}"
        ) from error


def look_often(grid: Grid) -> None:
    """Have a grid of Flower's look for replies more often than every 3 s, each by itself.

    What a node sends as a reply may be anything: what Flower cannot read, or what says that it
    answers another message, is an error of that node alone. A node that ends while it sends one
    holds up nobody. Messages that nobody waits for any more are taken back, and replies that are
    late are taken and dropped: the SuperLink would keep their arrays until the run ends.
    """

    def send_and_receive(
        self: Grid, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        pushed = list(messages)
        if timeout is not None:
            for message in pushed:
                message.metadata.ttl = timeout + CLOCKS_SECONDS
        waiting = {i: m for i, m in zip(self.push_messages(pushed), pushed, strict=True) if i}
        deadline = time.monotonic() + (threading.TIMEOUT_MAX if timeout is None else timeout)
        arrived: SimpleQueue[Message | Exception] = SimpleQueue()
        over = Event()
        replies: list[Message] = []
        for given in waiting.items():
            Thread(target=_fetch, args=(self, *given, over, arrived), daemon=True).start()
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
            over.set()
        return replies

    grid.__dict__["send_and_receive"] = MethodType(send_and_receive, grid)


def _fetch(
    grid: Grid,
    message_id: str,
    sent: Message,
    over: Event,
    arrived: "SimpleQueue[Message | Exception]",
) -> None:
    """Look for the reply to a message until it is there, or the message has expired."""
    expires = sent.metadata.created_at + sent.metadata.ttl
    try:
        while time.time() < expires:
            if reply := _pull(grid, message_id, sent):
                arrived.put(reply)
                return
            if over.wait(POLL_SECONDS):
                time.sleep(LATE_SECONDS)
    except Exception as error:
        arrived.put(error)


def _take_back(grid: Grid, message_ids: Iterable[str]) -> None:
    """Have the SuperLink drop what messages hold; a node that has not read them cannot now."""
    if isinstance(grid, HttpGrid):
        for message_id in message_ids:
            grid._runtime_client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(
                    node=grid.node, run_id=grid.run.run_id, message_object_id=message_id
                )
            )


def _pull(grid: Grid, message_id: str, sent: Message) -> Message | None:
    """Return the reply to a message, if it has come, or an error in its place."""
    try:
        for reply in grid.pull_messages([message_id]):
            if reply.metadata.reply_to_message_id == message_id:
                return reply
            reason = "a reply that says it answers another message"
            return Message(Error(ErrorCode.UNKNOWN, reason), reply_to=sent)
    except httpx.HTTPError:  # of the SuperLink
        raise
    except Exception as error:
        reason = f"a reply that cannot be read: {error!r}"
        return Message(Error(ErrorCode.UNKNOWN, reason), reply_to=sent)
    return None


@contextmanager
def _grid(
    address: str, authority: bytes | None, api: Runtime, retrying: RetryInvoker, run_id: int
) -> Iterator[Grid]:
    """Take the task of the ServerApp of our run, and say how it ended.

    Whoever reaches the control API can queue runs: tasks of theirs are refused.
    """
    deadline = time.monotonic() + START_SECONDS
    while True:
        token = _token(address, api, deadline)
        with api.task(token) as task:
            given = task.PullTaskInput(PullTaskInputRequest())
            if given.run.run_id != run_id:
                console.print(f"refused a task of run {given.run.run_id}, which is not ours")
                task.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.FAILED))
                continue
            grid = HttpGrid(address, authority is None, authority, token=token)
            grid._retry_invoker = retrying  # before it connects; its own never gives up
            look_often(grid)
            TaskIdentity.task_id, TaskIdentity.run_id = given.task_id, given.run.run_id
            TaskIdentity.node_id = given.context.node_id
            grid.set_run(run_from_proto(given.run))
            status = SubStatus.FAILED
            try:
                yield grid
                status = SubStatus.COMPLETED
            finally:
                grid.close()
                retrying.max_tries = 1  # where the SuperLink is gone, nobody is to be told
                with suppress(httpx.HTTPError):
                    task.PushTaskOutput(PushTaskOutputRequest(sub_status=status))
        return


def _token(address: str, api: Runtime, deadline: float) -> str:
    """Wait for a task that the SuperLink made of a run."""
    while time.monotonic() < deadline:
        try:
            if token := api.acquire(TaskType.SERVER_APP):
                return token
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.UNAUTHORIZED:
                raise
            raise UserError(
                f"runtime.secret: not the one that the SuperLink at {address} was given as "
                "--superexec-auth-secret-file"
            ) from error
        time.sleep(POLL_SECONDS)
    raise UserError(
        f"runtime.address={address}: the SuperLink hands out no task; was it "
        "started with --isolation process, and nothing else that runs apps?"
    )


def _files(runtime: RuntimeConfig) -> tuple[Sequence[Path], bytes | None]:
    """Return the nodes' public keys and the authority's certificate."""
    if runtime.insecure:
        if runtime.min_clients is None:
            raise UserError("runtime.insecure=true: set runtime.min_clients, as there are no keys")
        console.print(INSECURE.format("runtime"), style="bold red", highlight=False)
        return [], None
    folder = Path(runtime.certificates or "")
    authority = _file("certificates", runtime.certificates and str(folder / "ca.crt"))
    if not (keys := sorted((folder / "nodes").glob("*.pub"))):
        raise UserError(f"runtime.certificates={folder}: no public key in {folder / 'nodes'}")
    return keys, authority.read_bytes()


def _file(key: str, path: str | None) -> Path:
    if path is None or not Path(path).is_file():
        raise UserError(
            f"runtime.{key}: no such file: {path}; docker/certificates.sh makes it "
            "(runtime.insecure=true does without TLS, within one machine)"
        )
    return Path(path)


def _superlink(runtime: RuntimeConfig, secret: Path) -> list[str]:
    host, _, port = runtime.address.rpartition(":")
    secure = ["--insecure"]
    if not runtime.insecure:
        files = {"ca-certfile": "ca.crt", "certfile": "server.crt", "keyfile": "server.key"}
        secure = ["--enable-supernode-auth"]
        for option, name in files.items():
            file = _file("certificates", str(Path(runtime.certificates or "", name)))
            secure += [f"--ssl-{option}", str(file)]
    return [
        command("flower-superlink"),
        *("--host", host, "--port", port, *secure, "--isolation", "process"),
        *("--superexec-auth-secret-file", str(secret)),
        "--disable-runtime-dependency-installation",
    ]


def _check_loopback(address: str) -> None:
    """Refuse to serve the control API to other machines: it asks nobody who they are."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        found = {str(where[0]) for *_, where in socket.getaddrinfo(host or "0.0.0.0", None)}
    except OSError as error:
        raise UserError(f"runtime.address={address}: {error}") from error
    if not all(ipaddress.ip_address(ip).is_loopback for ip in found):
        raise UserError(
            f"runtime.address={address}: whoever reaches a SuperLink can stop runs and register "
            "nodes; start it at 127.0.0.1:8444, and let nodes in by docker/nginx.conf alone "
            "(docs/real-clients.md)"
        )


def _check_free(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_server((host, int(port))).close()
    except (OSError, ValueError) as error:
        raise UserError(f"runtime.address={address}: cannot listen there: {error}") from error


def listens(address: str, superlink: "subprocess.Popen[bytes] | None" = None) -> bool:
    """Wait until somebody listens there, and return whether anybody does."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and (superlink is None or superlink.poll() is None):
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return True
        except (OSError, ValueError):
            time.sleep(POLL_SECONDS)
    return False


def _register(control: ControlHttpClient, keys: Sequence[Path]) -> dict[int, str]:
    """Make the nodes' keys known unless they are, and return how to call each node."""
    known = {
        node.public_key: node.node_id for node in control.ListNodes(ListNodesRequest()).nodes_info
    }
    names = {}
    for path in keys:
        key = _public_key(path)
        if key not in known:
            request = RegisterNodeRequest(public_key=key, name=path.stem)
            known[key] = control.RegisterNode(request).node_id
        names[known[key]] = path.stem
    return names


def _public_key(path: Path) -> bytes:
    try:
        key = load_ssh_public_key(path.read_bytes())
        return public_key_to_bytes(key)  # type: ignore[arg-type]  # of another kind it raises
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(f"{path}: not a public key: {error}") from error


def _app() -> Fab:
    content, _ = build_fab_from_files(
        {"pyproject.toml": APP.format(version=version("fedser")).encode()}
    )
    return Fab(hashlib.sha256(content).hexdigest(), content, {})


def _told(content: RecordDict) -> str:
    """Return the text of a reply that says what its node holds; of another reply, nothing."""
    try:
        return str(content.config_records["roster"]["json"])
    except LookupError:
        return ""
