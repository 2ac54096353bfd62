import signal
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from threading import Timer

import psutil
import pytest
import yaml

from fedser.client.node.supernode import NodeConfig, serve
from fedser.common.errors import Suspended, UserError
from fedser.common.processes import command, free_port, running
from fedser.conf.build import compose
from fedser.conf.schema import RuntimeConfig
from fedser.server.app import train_from_overrides
from fedser.server.network.superlink import listens, network
from fedser.server.study.run import study_config
from tests import ROOT
from tests.network.compose import BIN, image_environment, services
from tests.network.soak import is_flower


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    make = [ROOT / "docker" / "certificates.sh", folder, "2", "server.example.org", "10.0.0.1"]
    subprocess.run(make, check=True, capture_output=True)
    return folder


def runtime(**changes):
    return RuntimeConfig(name="network", address=f"127.0.0.1:{free_port()}", **changes)


def test_missing_nodes_are_named_and_the_superlink_is_stopped(certificates, tmp_path, capsys):
    asked = runtime(certificates=str(certificates))
    with (
        pytest.raises(UserError, match="0 of 2 nodes are here, missing: 1, 2 after 0.1 s"),
        network(asked, tmp_path) as connected,
    ):
        connected.roster(0.1)
    assert "waiting for nodes: 0 of 2 nodes are here, missing: 1, 2" in capsys.readouterr().err
    host, port = asked.address.split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))


def test_insecure_must_be_set_and_is_announced(tmp_path, capsys):
    with pytest.raises(UserError, match="runtime.certificates: no such file"):
        network(runtime(), tmp_path).__enter__()
    with pytest.raises(UserError, match="set runtime.min_clients"):
        network(runtime(insecure=True), tmp_path).__enter__()
    with network(runtime(insecure=True, min_clients=1), tmp_path) as connected:
        assert list(connected.grid.get_node_ids()) == []
    assert "runtime.insecure=true: no TLS and no authentication" in capsys.readouterr().err
    with pytest.raises(UserError, match="runs any app for anybody; start the study with fedser"):
        train_from_overrides(["runtime=network"], tmp_path / "run", connected.grid)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.2", "", "[::]", "8.8.8.8"])
def test_a_superlink_starts_only_on_the_loopback_interface(host, tmp_path):
    asked = RuntimeConfig(name="network", address=f"{host}:1234", insecure=True, min_clients=1)
    with pytest.raises(
        UserError, match=r"runtime\.address=.*:1234: anybody who reaches a SuperLink can"
    ):
        network(asked, tmp_path).__enter__()


def test_an_address_in_use_is_named(tmp_path):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UserError, match="cannot listen there: .*in use"),
    ):
        port = taken.getsockname()[1]
        asked = RuntimeConfig(
            name="network", address=f"127.0.0.1:{port}", insecure=True, min_clients=1
        )
        network(asked, tmp_path).__enter__()


def test_a_run_whose_superlink_ends_is_suspended(tmp_path):
    lost = "the SuperLink is gone, or was started anew and does not know this run"
    with (
        pytest.raises(Suspended, match=lost),
        network(runtime(insecure=True, min_clients=1), tmp_path) as connected,
    ):
        (superlink,) = filter(is_flower, psutil.Process().children())
        superlink.kill()
        connected.grid.get_node_ids()


@pytest.fixture
def started(tmp_path):
    """Return a runtime that joins a SuperLink, and the command that starts this SuperLink."""
    (tmp_path / "secret").write_bytes(b"s" * 32)
    asked = runtime(
        insecure=True, min_clients=1, start=False, secret=str(tmp_path / "secret"), patience=60.0
    )
    host, port = asked.address.split(":")
    return asked, [
        *(command("flower-superlink"), "--host", host, "--port", port, "--insecure"),
        *("--isolation", "process", "--superexec-auth-secret-file", asked.secret),
        "--disable-runtime-dependency-installation",
    ]


def test_a_superlink_rejects_another_secret(started, tmp_path):
    asked, start = started
    (tmp_path / "other").write_bytes(b"o" * 32)
    other = replace(asked, secret=str(tmp_path / "other"))
    with (
        running(start) as superlink,
        pytest.raises(UserError, match="runtime.secret: not the secret that the SuperLink at"),
    ):
        assert listens(asked.address, superlink)
        network(other, tmp_path).__enter__()


def test_a_paused_superlink_is_found_again_unless_restarted(started, tmp_path):
    asked, start = started
    with (
        running(start) as superlink,
        pytest.raises(Suspended, match="started anew .*401"),
        network(asked, tmp_path) as connected,
    ):
        superlink.send_signal(signal.SIGSTOP)
        away = Timer(1.0, superlink.send_signal, [signal.SIGCONT])
        away.start()
        assert list(connected.grid.get_node_ids()) == []
        away.join()
        superlink.kill()
        superlink.wait()
        with running(start) as anew:
            assert listens(asked.address, anew)
            connected.grid.get_node_ids()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"threads": 0}, "node.threads=0 must be at least 1"),
        ({"device": "tpu"}, "node.device=tpu is not one of cpu, cuda"),
        ({}, "node.root_certificates=None: no such file"),
    ],
)
def test_a_node_rejects_bad_settings(changes, reason):
    plain = {"root_certificates": None, "private_key": None, "insecure": False}
    config = NodeConfig("localhost:1", **plain, **{"threads": 1, "device": "cpu", **changes})
    with pytest.raises(UserError, match=reason):
        serve(config, None)


def test_a_networked_study_rejects_statistics_of_all_nodes():
    with pytest.raises(UserError, match="normalisation=corpus needs the features of all nodes"):
        study_config(compose(["runtime=network", "normalisation=corpus"]))


def test_certificates_name_the_server_and_keys_are_private(certificates):
    shown = subprocess.run(
        ["openssl", "x509", "-in", certificates / "server.crt", "-noout", "-ext", "subjectAltName"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in ("DNS:superlink", "DNS:localhost", "DNS:server.example.org"):
        assert name in shown
    for address in ("127.0.0.1", "10.0.0.1"):
        assert f"IP Address:{address}" in shown
    private = ["ca.key", "server.key", "secret", "keys/1", "keys/2"]
    assert all((certificates / name).stat().st_mode & 0o77 == 0 for name in private)
    assert sorted(p.name for p in (certificates / "nodes").iterdir()) == ["1.pub", "2.pub"]
    before = (certificates / "keys" / "1").read_bytes()
    again = [ROOT / "docker" / "certificates.sh", certificates, "3"]
    subprocess.run(again, check=True, capture_output=True)
    assert (certificates / "keys" / "1").read_bytes() == before
    assert (certificates / "nodes" / "3.pub").exists()


def test_every_container_is_confined():
    described, secrets = services({"FEDSER_SPEAKERS": "/speakers"})
    for name, service in described.items():
        assert service["read_only"] and service["tmpfs"] == ["/tmp"]
        assert service["cap_drop"] == ["ALL"] and not service.get("privileged")
        assert service["user"] == "10001:10001" and service["networks"] and "ports" not in service
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
        if name != "study":  # it ends by itself
            assert service["restart"] == "unless-stopped" and service["healthcheck"]["test"]
    written = {n: d for n, d in image_environment().items() if n.endswith(("CACHE", "DIR", "HOME"))}
    assert set(written) == {"FEDSER_CACHE", "FLWR_HOME", "NUMBA_CACHE_DIR"}
    assert all(Path(folder).parent == Path("/tmp") for folder in written.values())
    nodes = [s for name, s in described.items() if name.startswith("node-")]
    assert len(nodes) == 5
    assert len({node["volumes"][0] for node in nodes}) == 5
    for number, node in enumerate(nodes, 1):
        assert node["volumes"] == [
            f"/speakers/{number}:/data:ro",
            "compiled:/compiled",
            f"ledger-{number}:/ledger",
        ]
        assert node["secrets"] == ["ca.crt", "peers", {"source": f"key-{number}", "target": "key"}]
    networks = {name: service["networks"] for name, service in described.items()}
    assert networks.pop("superlink") == networks.pop("study") == ["control"]
    assert sorted(networks.pop("proxy")) == ["control", "fleet"]
    assert set(map(tuple, networks.values())) == {("fleet",)}
    held = [s for n, d in described.items() if n.startswith("node-") for s in d["secrets"]]
    assert "server.key" not in held and "secret" not in held
    assert set(secrets) == {"ca.crt", "server.crt", "server.key", "secret", "peers"} | {
        f"key-{number}" for number in range(1, 6)
    }
    assert "ca.key" not in yaml.safe_dump(described)


def test_a_node_explains_its_policy_or_what_is_wrong_with_it(tmp_path):
    def explained(content):
        (tmp_path / "policy.yaml").write_text(content)
        command = [BIN / "fedser-node", "--explain", f"node.policy={tmp_path / 'policy.yaml'}"]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)

    good = explained("mechanisms: [distributed, local]\nmin_clients: 20")
    assert good.returncode == 0 and not good.stderr
    assert "It protects updates by distributed or local." in good.stdout
    assert "A secure or encrypted sum has at least 20 clients." in good.stdout
    bad = explained("min_client: 20")
    assert bad.returncode == 2 and not bad.stdout
    (line,) = bad.stderr.splitlines()
    assert line.startswith("fedser-node: ") and "'min_client' was unexpected" in line
