"""Attacks by a process on this machine that reaches Ray's ports."""

import ipaddress
import os
import subprocess
import sys
from contextlib import contextmanager

import grpc
import psutil
import pytest
import ray
from flwr.clientapp import ClientApp

import fedser.server.study.run  # noqa: F401  (sets the environment that Ray reads)
from fedser.common.errors import UserError
from fedser.conf.schema import RuntimeConfig
from fedser.server.grids.ray import ray_grids
from fedser.server.grids.ray_auth import HEALTH_CALL, MODE
from fedser.server.study.run import run_federations
from tests.examples import federation

pytestmark = pytest.mark.all_cores

SHORT = {
    "RAY_gcs_rpc_server_connect_timeout_s": "1",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "1",
    "RAY_gcs_server_request_timeout_seconds": "1",
    "RAY_NUM_REDIS_GET_RETRIES": "1",
}
"""Makes the attacker give up soon."""

TOKENS = {"none": {}, "wrong": {**MODE, "RAY_AUTH_TOKEN": "f" * 64}}
TRUSTED = "t" * 64

CALLS = [
    HEALTH_CALL,
    "/ray.rpc.InternalKVGcsService/InternalKVPut",
    "/ray.rpc.NodeManagerService/RequestWorkerLease",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.ObjectManagerService/FreeObjects",
]
"""Calls to the servers of Ray that store or run code."""

NOT_GRPC = grpc.StatusCode.UNAVAILABLE

HEAD = """
import ray
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
input()
"""


@pytest.fixture(scope="module")
def own():
    """Return the address of a cluster that fedser started."""
    ray.shutdown()
    before = set_for_ray()
    with ray_grids(ClientApp(), {"num_cpus": os.cpu_count()}, None, 2):
        yield ray.get_runtime_context().gcs_address
    ray.shutdown()
    assert set_for_ray() == before


def set_for_ray():
    """Return the variables of the environment that fedser sets for Ray."""
    return {n: v for n, v in os.environ.items() if "RAY_AUTH" in n or n == "PYTHONPATH"}


def attack(address, file, token):
    clean = {name: value for name, value in os.environ.items() if "RAY_AUTH" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.ray_attacker", address, str(file)],
        env={**clean, **SHORT, **TOKENS.get(token, {})},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.stdout


@pytest.mark.parametrize("token", TOKENS)
def test_a_process_without_the_token_runs_nothing(token, own, tmp_path):
    assert "ran" not in attack(own, tmp_path / "made", token)
    assert not (tmp_path / "made").exists()


def test_all_of_ray_listens_on_the_loopback_interface(own):
    listening = [
        connection.laddr.ip
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 5
    addresses = [ipaddress.ip_address(ip.removeprefix("::ffff:")) for ip in listening]
    assert all(address.is_loopback for address in addresses)


@pytest.mark.parametrize("metadata", [[], [("authorization", "Bearer " + "f" * 64)]])
def test_every_port_of_ray_asks_for_the_token(metadata, own):
    found = {port: [answer(port, name, metadata) for name in CALLS] for port in ports_of_ray()}
    assert len(found) >= 5
    refused = grpc.StatusCode.UNAUTHENTICATED
    assert all(refused in codes or set(codes) == {NOT_GRPC} for codes in found.values()), found
    assert sum(refused in codes for codes in found.values()) >= 4
    assert all(None not in codes for codes in found.values())


def ports_of_ray():
    return {
        connection.laddr.port
        for process in psutil.Process().children(recursive=True)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def answer(port, name, metadata):
    """Return the error status of a call; None if it is answered."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary(name)(b"", metadata=metadata, timeout=10)
        except grpc.RpcError as error:
            return error.code()
    return None


def test_tokens_are_new_and_leave_the_environment(own):
    ray.shutdown()
    before = dict(os.environ)
    seen = [before["RAY_AUTH_TOKEN"]]
    with ray_grids(ClientApp(), {"num_cpus": os.cpu_count()}, None, 2):
        seen.append(os.environ["RAY_AUTH_TOKEN"])
    assert len(set(seen)) == 2 and min(map(len, seen)) == 64
    assert dict(os.environ) == before  # with the first token, which its own context removes


@contextmanager
def head(**environment):
    """Start a cluster without fedser, and give its address."""
    clean = {name: value for name, value in os.environ.items() if "RAY_AUTH" not in name}
    started = subprocess.Popen(
        [sys.executable, "-c", HEAD],
        env={**clean, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with started:
        yield started.stdout.readline().strip()
        started.stdin.close()


def test_a_cluster_without_a_token_is_rejected(tmp_path, monkeypatch):
    """The attack succeeds on this cluster, so fedser sends nothing to it."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", TRUSTED)
    with head() as address:
        assert attack(address, tmp_path / "made", "none") == "ran\n"
        assert (tmp_path / "made").exists()
        with pytest.raises(UserError, match=r"ray_address=.*: the cluster runs code for anybody"):
            run_federations([federation(tmp_path)], RuntimeConfig("ray", ray_address=address))


def test_a_cluster_is_not_joined_without_its_token(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    reasons = {
        None: "no token for this cluster.*RAY_AUTH_MODE=token for",
        "f" * 64: "another token",
    }
    with head(RAY_AUTH_TOKEN=TRUSTED, **MODE) as address:
        assert "ran" not in attack(address, tmp_path / "made", "none")
        for token, reason in reasons.items():
            if token:
                monkeypatch.setenv("RAY_AUTH_TOKEN", token)
            with pytest.raises(UserError, match=reason):
                run_federations([federation(tmp_path)], RuntimeConfig("ray", ray_address=address))
