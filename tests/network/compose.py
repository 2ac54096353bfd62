"""The services of docker/compose.yaml as plain processes: the same commands and environment."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from fedser.common.processes import free_port, running
from fedser.server.network.superlink import listens
from tests import ROOT

BIN = Path(sys.executable).parent
MODULES = {
    "fedser": "fedser",
    "fedser-node": "fedser.client.node.main",
}
"""Modules of the commands, so that fedser need not be installed."""


def services(variables: Mapping[str, str]) -> tuple[dict, dict]:
    """Return services and files of secrets, with variables filled in as Compose does it."""
    text = (ROOT / "docker" / "compose.yaml").read_text()

    def value(match: re.Match) -> str:
        name, default = match["name"], match["default"]
        if name not in variables and default is None:
            raise KeyError(name)
        return variables.get(name, default)

    text = re.sub(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*)|:\?[^}]*)?\}", value, text)
    composed = yaml.safe_load(text)
    return composed["services"], {n: s["file"] for n, s in composed["secrets"].items()}


def image_environment() -> dict[str, str]:
    """Return the environment that the last stage of the Dockerfile sets."""
    stage = (ROOT / "docker" / "Dockerfile").read_text().rsplit("\nFROM ", 1)[1]
    (block,) = re.findall(r"^ENV ((?:.*\\\n)*.*)$", stage, re.MULTILINE)
    return dict(re.findall(r"(\w+)=(\S+)", block))


def certify(folder: Path, shares: Sequence[int]) -> None:
    """Make the certificates and keys of nodes, and tell the nodes how many speakers each has."""
    make = [ROOT / "docker" / "certificates.sh", folder, str(len(shares))]
    subprocess.run(make, check=True, capture_output=True)
    peers = (folder / "peers.pub").read_text().splitlines()
    rows = [f"{line} clients={share}\n" for line, share in zip(peers, shares, strict=True)]
    (folder / "peers.pub").write_text("".join(rows))


INHERITED = ("HOME", "PYTHONPATH", "MKL_CBWR", "ATEN_CPU_CAPABILITY", "NUMBA_CPU_NAME")
"""Variables that a service gets from here; the last three choose kernels, as a processor does."""


@contextmanager
def proxied(port: int, certificates: Path, folder: Path) -> Iterator[int]:
    """Run the proxy of a SuperLink and give its port; without nginx give the SuperLink's port.

    Parameters
    ----------
    port : int
        Port of the SuperLink.
    """
    if not (program := shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")):
        yield port
        return
    folder.mkdir()
    own, text = free_port(), (ROOT / "docker" / "nginx.conf").read_text()
    changes = {"/tmp": str(folder), "/run/secrets": str(certificates)}
    changes |= {"superlink:8444": f"127.0.0.1:{port}", "listen 8443": f"listen 127.0.0.1:{own}"}
    for there, here in changes.items():
        text = text.replace(there, here)
    (folder / "nginx.conf").write_text(text)
    with running([program, "-e", "stderr", "-c", str(folder / "nginx.conf")], folder / "log"):
        assert listens(f"localhost:{own}"), (folder / "log").read_text()
        yield own


@contextmanager
def up(service: dict, secrets: dict, port: int, folder: Path) -> Iterator[subprocess.Popen]:
    """Run a service within this context; `folder` is its /tmp and gets its output as ``log``."""
    arguments, environment = as_process(service, secrets, port, folder)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            arguments, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def as_process(
    service: dict, secrets: dict, port: int, folder: Path
) -> tuple[list[str], dict[str, str]]:
    places = dict.fromkeys(["proxy:8443", "superlink:8444"], f"localhost:{port}")
    places |= {"/tmp": str(folder), "--port=8444": f"--port={port}", "0.0.0.0": "127.0.0.1"}
    for secret in service.get("secrets", []):
        entry = secret if isinstance(secret, dict) else {"source": secret, "target": secret}
        places[f"/run/secrets/{entry['target']}"] = secrets[entry["source"]]
    for volume in service.get("volumes", []):
        outside, inside, *_ = volume.split(":")
        places[inside] = str(folder.parent / outside)  # a named volume lies beside the folder
    pattern = "|".join(map(re.escape, sorted(places, key=len, reverse=True)))

    def here(text: str) -> str:
        return re.sub(pattern, lambda found: places[found[0]], text)

    command, *arguments = [*service.get("entrypoint", []), *service["command"]]
    program = [sys.executable, "-m", MODULES[command]] if command in MODULES else [BIN / command]
    inherited = {key: os.environ[key] for key in INHERITED if key in os.environ}
    inherited["PATH"] = f"{BIN}:{os.environ['PATH']}"
    stated = {**image_environment(), **service.get("environment", {})}
    environment = {key: here(text) for key, text in stated.items() if key != "PATH"}
    return [*map(str, program), *map(here, arguments)], inherited | environment
