"""A real client: Flower's SuperNode, and the ClientApp in a process that stays.

Flower starts a process for every message, which must import PyTorch before it can answer. Here
its SuperNode runs in process isolation, as Flower calls it, and this process takes the SuperNode's
tasks in the place of ``flower-superexec``. It runs the ClientApp that is installed on this
machine, never code that a server sends.
"""

import logging
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode, SubStatus
from flwr.supercore.constant import TaskType
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output
from rich.console import Console

from client.app import STACKED, app
from client.errors import UserError, check_choice
from client.hosting import Holdings
from client.processes import command, free_port, running
from client.tasks import Runtime, alive

INSECURE = "{}.insecure=true: no TLS and no authentication; within one machine only"

POLL_SECONDS = 0.4
"""Between two questions for a task, of a SuperNode on this machine."""

RESTART_SECONDS = 5.0
"""Before a SuperNode that ended is started again: the SuperLink may be on its way back."""


@dataclass(frozen=True)
class NodeConfig:
    """Keys of ``node`` in ``conf/node.yaml``."""

    superlink: str
    root_certificates: str | None
    private_key: str | None
    insecure: bool
    threads: int
    device: str


def serve(config: NodeConfig, holdings: Holdings) -> None:
    """Answer a SuperLink's messages about what this node holds, until it is told to end.

    Raises
    ------
    UserError
        If files for TLS and authentication are missing.
    """
    _check(config)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every request
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # leaving nothing behind
    with tempfile.TemporaryDirectory(prefix="fedser-holdings-") as private:
        folder = Path(private)  # readable by this user alone
        holdings.save(folder / "holdings.safetensors")
        (folder / "secret").write_bytes(secrets.token_bytes(32))
        speakers = holdings.roster["speakers"]
        print(f"fedser-node: holds {', '.join(speakers)}; SuperLink {config.superlink}", flush=True)
        while True:
            port = free_port()
            with running(_supernode(config, folder, port)) as supernode:
                _answer(f"127.0.0.1:{port}", (folder / "secret").read_bytes(), supernode)
            print(
                f"fedser-node: no connection to {config.superlink}: is it up, and does it know "
                f"this node's key? Trying again in {RESTART_SECONDS:.0f} s",
                file=sys.stderr,
                flush=True,
            )
            time.sleep(RESTART_SECONDS)


def _check(config: NodeConfig) -> None:
    if config.threads < 1:
        raise UserError(f"node.threads={config.threads} must be at least 1")
    check_choice("node.device", config.device, STACKED)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("node.device=cuda: no GPU is to be seen; set node.device=cpu")
    if config.insecure:
        Console(stderr=True).print(INSECURE.format("node"), style="bold red", highlight=False)
        return
    for key in ("root_certificates", "private_key"):
        file = getattr(config, key)
        if file is None or not Path(file).is_file():
            raise UserError(
                f"node.{key}={file}: no such file; docker/certificates.sh makes it "
                "(node.insecure=true does without TLS, within one machine)"
            )


def _supernode(config: NodeConfig, folder: Path, port: int) -> list[str]:
    holdings = folder / "holdings.safetensors"
    about = f'holdings="{holdings}" device="{config.device}" threads={config.threads}'
    secure = (
        ["--insecure"]
        if config.insecure
        else [
            *("--root-certificates", str(config.root_certificates)),
            *("--auth-supernode-private-key", str(config.private_key)),
        ]
    )
    return [
        command("flower-supernode"),
        *("--superlink", config.superlink, *secure, "--isolation", "process"),
        *("--superexec-auth-secret-file", str(folder / "secret")),
        *("--host", "127.0.0.1", "--port", str(port), "--node-config", about),
    ]


def _answer(address: str, secret: bytes, supernode: "subprocess.Popen[bytes]") -> None:
    """Run the SuperNode's tasks until it ends."""
    with Runtime(address, None, secret) as runtime:
        while supernode.poll() is None:
            if (token := runtime.acquire(TaskType.CLIENT_APP)) is None:
                time.sleep(POLL_SECONDS)
                continue
            with runtime.task(token) as task:
                with alive(task):
                    message, context, _, _ = pull_task_input(task)
                    try:
                        reply = app(message, context)
                    except Exception as error:
                        failure = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error))
                        reply = Message(failure, reply_to=message)
                    push_message(task, reply, context)
                push_task_output(task, None, SubStatus.COMPLETED, "")
