"""Connect to real clients: start or join Flower's SuperLink, and run a study over it."""

import ipaddress
import logging
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, StartRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from rich.console import Console

from fedser.client.node.supernode import INSECURE
from fedser.client.node.tasks import Runtime, retries
from fedser.common.environment import proxy_hint
from fedser.common.errors import Suspended, UserError, brief
from fedser.common.private_folder import private_folder
from fedser.common.processes import command, running
from fedser.conf.schema import RuntimeConfig
from fedser.server.network.roster import Network
from fedser.server.network.server_task import build_app, server_task

START_SECONDS = 180.0
"""Time for a SuperLink to start and listen."""

CONNECT_SECONDS = 0.25
"""Seconds between two attempts to connect."""

console = Console(stderr=True)


@contextmanager
def network(runtime: RuntimeConfig, folder: Path) -> Iterator[Network]:
    """Start or join a SuperLink, and run as its ServerApp within this context.

    Parameters
    ----------
    folder : Path
        Folder for ``superlink.log``.

    Raises
    ------
    UserError
        If a key of the configuration or a file is missing, or if the SuperLink does not start.
    Suspended
        If the SuperLink ends, cannot be reached for ``runtime.patience`` seconds, or does not
        know this run because it was started anew.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every request
    keys, authority = _keys_and_authority(runtime)
    address = runtime.address
    with _suspend_if_lost(address), ExitStack() as stack:
        superlink, secret = stack.enter_context(_superlink(runtime, folder))
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
        started = control.StartRun(StartRunRequest(fab=fab_to_proto(build_app())))
        retrying = retries(
            lambda: superlink is not None and superlink.poll() is not None, runtime.patience
        )
        api = stack.enter_context(Runtime(address, authority, secret, retrying))
        grid = server_task(address, authority, api, retrying, started.run_id)
        min_nodes = runtime.min_clients or count // 2 + 1
        yield Network(stack.enter_context(grid), names, count, min_nodes)


@contextmanager
def _superlink(
    runtime: RuntimeConfig, folder: Path
) -> Iterator[tuple["subprocess.Popen[bytes] | None", bytes]]:
    """Start a SuperLink, or join one; give its process (None if joined) and its secret."""
    address = runtime.address
    if not runtime.start:
        secret_file = _file("secret", runtime.secret)
        if not listens(address):
            raise UserError(f"runtime.address={address}: no SuperLink is there; start it first")
        yield None, secret_file.read_bytes()
        return
    with private_folder() as private:
        secret, secret_file, log = secrets.token_bytes(32), private / "secret", "superlink.log"
        secret_file.write_bytes(secret)
        _check_loopback(address)
        _check_free(address)
        # If this process dies, the SuperLink is killed at once: without this process its state is
        # of no use, and its address must be free for the next one.
        arguments = superlink_command(runtime, secret_file)
        with running(arguments, folder / log, orphaned=signal.SIGKILL) as superlink:
            if not listens(address, superlink):
                tail = (folder / log).read_text().strip()[-300:]
                raise UserError(f"runtime.address={address}: the SuperLink did not start: {tail}")
            yield superlink, secret


def superlink_command(runtime: RuntimeConfig, secret_file: Path) -> list[str]:
    """Return the command line of a SuperLink."""
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
        *("--superexec-auth-secret-file", str(secret_file)),
        "--disable-runtime-dependency-installation",
    ]


@contextmanager
def _suspend_if_lost(address: str) -> Iterator[None]:
    """Suspend the run if it loses its SuperLink."""
    try:
        yield
    except (httpx.HTTPError, ObjectPushError) as error:
        raise Suspended(
            f"runtime.address={address}: the SuperLink is gone, or was started anew and does not "
            f"know this run ({brief(error)}); make sure that one can run there, then go on"
            f"{proxy_hint(address)}"
        ) from error


def listens(address: str, superlink: "subprocess.Popen[bytes] | None" = None) -> bool:
    """Wait until a server listens at an address; return False if none does, or it has ended."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and (superlink is None or superlink.poll() is None):
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return True
        except (OSError, ValueError):
            time.sleep(CONNECT_SECONDS)
    return False


def _check_loopback(address: str) -> None:
    """Reject an address that other machines reach: the control API has no authentication."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        found = {str(where[0]) for *_, where in socket.getaddrinfo(host or "0.0.0.0", None)}
    except OSError as error:
        raise UserError(f"runtime.address={address}: {error}") from error
    if not all(ipaddress.ip_address(ip).is_loopback for ip in found):
        raise UserError(
            f"runtime.address={address}: anybody who reaches a SuperLink can stop runs and "
            "register nodes; start it at 127.0.0.1:8444, and let nodes connect through "
            "docker/nginx.conf only (docs/real-clients.md)"
        )


def _check_free(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_server((host, int(port))).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"runtime.address={address}: cannot listen there: {error}; choose another port"
        ) from error


def _keys_and_authority(runtime: RuntimeConfig) -> tuple[Sequence[Path], bytes | None]:
    """Return the files of the nodes' public keys, and the authority's certificate."""
    if runtime.insecure:
        if runtime.min_clients is None:
            raise UserError("runtime.insecure=true: set runtime.min_clients, as there are no keys")
        console.print(INSECURE.format("runtime"), style="bold red", highlight=False)
        return [], None
    folder = Path(runtime.certificates or "")
    authority = _file("certificates", runtime.certificates and str(folder / "ca.crt"))
    if not (keys := sorted((folder / "nodes").glob("*.pub"))):
        raise UserError(
            f"runtime.certificates={folder}: no public key in {folder / 'nodes'}; "
            "docker/certificates.sh makes them"
        )
    return keys, authority.read_bytes()


def _file(key: str, path: str | None) -> Path:
    if path is None or not Path(path).is_file():
        raise UserError(
            f"runtime.{key}: no such file: {path}; docker/certificates.sh makes it "
            "(runtime.insecure=true works without TLS, within one machine)"
        )
    return Path(path)


def _register(control: ControlHttpClient, keys: Sequence[Path]) -> dict[int, str]:
    """Register the public keys that the SuperLink does not know, and return each node's name."""
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
        return public_key_to_bytes(key)  # type: ignore[arg-type]  # another kind of key raises
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UserError(f"{path}: not a public key: {error}") from error
