"""Attacks by a process that reaches the port of the SuperLink or of its proxy."""

import shutil
import socket
import ssl
import subprocess

import httpx
import pytest
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import ListNodesRequest, StartRunRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from fedser.common.processes import free_port, running
from fedser.conf.schema import RuntimeConfig
from fedser.server.network.server_task import build_app
from fedser.server.network.superlink import listens, network, superlink_command
from tests import ROOT
from tests.network.compose import proxied, services, up

needs_nginx = pytest.mark.skipif(
    shutil.which("nginx", path="/usr/sbin:/usr/bin:/bin:/usr/local/bin") is None,
    reason="nginx is not installed",
)

CONTROL = ["list-nodes", "start-run", "stop-run", "register-node", "unregister-node", "list-runs"]
SPELLINGS = [
    "/v1/control/{}",
    "//v1/control/{}",
    "/v1//control/{}",
    "/v1/./control/{}",
    "/v1/fleet/../control/{}",
    "/v1/fleet/%2e%2e/control/{}",
    "/v1/fleet/..%2fcontrol/{}",
    "/v1/fleet/pull-messages/../../control/{}",
    "/v1/fleet/pull-messages%2f..%2f..%2fcontrol/{}",
    "/v1/fleet/pull-messages%00/../../control/{}",
    "/v1/fleet/pull-messages;/../../control/{}",
    "/v1/%63ontrol/{}",
    "/v1/control/{}#/v1/fleet/pull-messages",
    "/v1/control/{}?/v1/fleet/pull-messages",
    "/v1/fleet\\..\\control\\{}",
    "http://superlink/v1/control/{}",
    "/V1/CONTROL/{}",
]
OTHERS = ["/", "/docs", "/openapi.json", "/health", "/v1/runtime/acquire-task", "/v1/fleet/"]


@pytest.fixture(scope="module")
def superlink(tmp_path_factory):
    """Give the ports of a SuperLink and of its proxy, and the certificates."""
    folder = tmp_path_factory.mktemp("superlink")
    certificates, port = folder / "certificates", free_port()
    make = [ROOT / "docker" / "certificates.sh", certificates, "1"]
    subprocess.run(make, check=True, capture_output=True)
    described, secrets = services(
        {"FEDSER_SPEAKERS": str(folder), "FEDSER_CERTIFICATES": str(certificates)}
    )
    (folder / "superlink").mkdir()
    with up(described["superlink"], secrets, port, folder / "superlink"):
        assert listens(f"localhost:{port}")
        with proxied(port, certificates, folder / "proxy") as proxy_port:
            yield port, proxy_port, certificates


def control(port, certificates):
    return ControlHttpClient.from_server_address(
        f"localhost:{port}",
        False,
        (certificates / "ca.crt").read_bytes(),
        [RuntimeVersionHttpInterceptor(component_name="flwr")],
    )


def status(port, certificates, path, method="POST"):
    """Return the status of a request with exactly this path."""
    context = ssl.create_default_context(cafile=certificates / "ca.crt")
    with (
        socket.create_connection(("localhost", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        asked = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        asked += "Content-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"
        secure.sendall(asked.encode("latin-1"))
        return int(secure.recv(4096).split(b" ")[1])


@needs_nginx
def test_the_control_api_is_not_behind_the_proxy(superlink):
    port, proxy_port, certificates = superlink
    with control(port, certificates) as client:  # the attack: the control API has no authentication
        client.ListNodes(ListNodesRequest())
    with (
        control(proxy_port, certificates) as client,
        pytest.raises(httpx.HTTPStatusError, match="404"),
    ):
        client.ListNodes(ListNodesRequest())


@needs_nginx
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_of_a_path_reaches_the_control_api(spelling, superlink):
    _, proxy_port, certificates = superlink
    for name in CONTROL:
        assert status(proxy_port, certificates, spelling.format(name)) in (400, 404)


@needs_nginx
@pytest.mark.parametrize("path", OTHERS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_only_the_fleet_api_is_behind_the_proxy(path, method, superlink):
    _, proxy_port, certificates = superlink
    assert status(proxy_port, certificates, path, method) == 404


@needs_nginx
def test_the_fleet_api_asks_for_the_key_of_a_node(superlink):
    _, proxy_port, certificates = superlink
    assert status(proxy_port, certificates, "/v1/fleet/pull-messages") in (400, 401, 415, 422)
    assert status(proxy_port, certificates, "/v1/fleet/pull-messages", "GET") == 405


def test_a_task_of_another_run_is_rejected(tmp_path, monkeypatch, capsys):
    """Other runs are queued before ours; the study still runs as its own run."""
    port = free_port()
    (tmp_path / "secret").write_bytes(b"s" * 32)
    asked = RuntimeConfig(
        name="network",
        address=f"127.0.0.1:{port}",
        insecure=True,
        min_clients=1,
        start=False,
        secret=str(tmp_path / "secret"),
        patience=60.0,
    )
    command = superlink_command(asked, tmp_path / "secret")
    with running(command, tmp_path / "log") as superlink:
        assert listens(asked.address, superlink)
        with ControlHttpClient.from_server_address(
            asked.address, True, None, [RuntimeVersionHttpInterceptor(component_name="flwr")]
        ) as attacker:
            fab = fab_to_proto(build_app())
            theirs = {attacker.StartRun(StartRunRequest(fab=fab)).run_id for _ in range(3)}
        with network(asked, tmp_path) as connected:
            assert connected.grid.run.run_id not in theirs
            assert list(connected.grid.get_node_ids()) == []
    assert capsys.readouterr().err.count("rejected a task of run") == 3
