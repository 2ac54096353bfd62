"""A real client: Flower's SuperNode, and the ClientApp in a process that stays.

Flower starts a new process for every message, and each process must first import PyTorch. Here
the SuperNode runs with Flower's process isolation, and this process takes the SuperNode's tasks
instead of ``flower-superexec``. It runs the ClientApp that is installed on this machine, never
code from a server.
"""

import logging
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from flwr.app import Context, Error, Message
from flwr.common.constant import ErrorCode, SubStatus
from flwr.supercore.constant import TaskType
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output
from rich.console import Console

from fedser.client.app import MAX_CHUNK, app, warm_up
from fedser.client.holdings import Holdings
from fedser.client.node.guard import Guard
from fedser.client.node.policy import NodeLedger, NodePolicy
from fedser.client.node.tasks import Runtime, retries
from fedser.client.secure_aggregation.session import REFUSAL, Refused
from fedser.common.environment import proxy_hint
from fedser.common.errors import UserError, brief, check_choice
from fedser.common.private_folder import private_folder
from fedser.common.processes import command, free_port, running

INSECURE = "{}.insecure=true: no TLS and no authentication; within one machine only"

POLL_SECONDS = 0.4
"""Pause between two requests for a task, to a SuperNode on this machine."""

RESTART_SECONDS = (1.0, 16.0)
"""Pause before a SuperNode that ended starts again: the first time, and at most."""


@dataclass(frozen=True)
class NodeConfig:
    """Keys of ``node`` in ``conf/node.yaml``."""

    superlink: str
    root_certificates: str | None
    private_key: str | None
    insecure: bool
    threads: int
    device: str
    policy: str | None = None
    ledger: str | None = None
    peers: str | None = None


def serve(config: NodeConfig, holdings: Holdings) -> None:
    """Answer the messages of a SuperLink with this node's data, until the process is stopped.

    Raises
    ------
    UserError
        If a setting is invalid, or files for TLS and authentication are missing.
    """
    _check(config)
    guard = Guard(NodePolicy.load(_path(config.policy)), _ledger(config), holdings)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # httpx logs every request
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that temporary files are removed
    with private_folder() as folder:
        holdings.save(folder / "holdings.safetensors")
        (folder / "secret").write_bytes(secrets.token_bytes(32))
        speakers = holdings.roster["speakers"]
        print(f"fedser-node: holds {', '.join(speakers)}; SuperLink {config.superlink}", flush=True)
        warm_up(config.device)  # before the server waits for this node
        pause, longest = RESTART_SECONDS
        while True:
            port = free_port()
            with running(_supernode(config, folder, port)) as supernode:
                secret = (folder / "secret").read_bytes()
                answered = _answer(f"127.0.0.1:{port}", secret, supernode, guard)
            pause = RESTART_SECONDS[0] if answered else min(2 * pause, longest)
            _say(
                f"no connection to {config.superlink}: is it up, and does it know this node's "
                f"key? Trying again in {pause:.0f} s{proxy_hint(config.superlink)}"
            )
            time.sleep(pause)


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


def _ledger(config: NodeConfig) -> NodeLedger:
    """Return the node's ledger: by default beside its key, without a key only in memory."""
    beside = None if config.private_key is None else f"{config.private_key}.ledger"
    return NodeLedger.load(_path(config.ledger or beside))


def _check(config: NodeConfig) -> None:
    if config.threads < 1:
        raise UserError(f"node.threads={config.threads} must be at least 1")
    check_choice("node.device", config.device, MAX_CHUNK)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("node.device=cuda: no GPU was found; set node.device=cpu")
    if config.insecure:
        Console(stderr=True).print(INSECURE.format("node"), style="bold red", highlight=False)
        return
    for key in ("root_certificates", "private_key"):
        file = getattr(config, key)
        if file is None or not Path(file).is_file():
            raise UserError(
                f"node.{key}={file}: no such file; create it with docker/certificates.sh "
                "(or set node.insecure=true: no TLS, within one machine only)"
            )


def _supernode(config: NodeConfig, folder: Path, port: int) -> list[str]:
    holdings = folder / "holdings.safetensors"
    about = f'holdings="{holdings}" device="{config.device}" threads={config.threads}'
    if not config.insecure:  # otherwise any node may take part in secure sums
        about += f' private-key="{config.private_key}" peers="{config.peers or ""}"'
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


def _answer(address: str, secret: bytes, supernode: "subprocess.Popen[bytes]", guard: Guard) -> int:
    """Run the tasks of the SuperNode until it ends, and return their number."""
    answered = 0
    gone = retries(lambda: supernode.poll() is not None, None)
    with Runtime(address, None, secret, gone) as runtime:
        while supernode.poll() is None:
            try:
                if (token := runtime.acquire(TaskType.CLIENT_APP)) is not None:
                    answered += 1
                    with runtime.task(token) as task:
                        _run(task, guard)
                    continue
            except Exception as error:
                # The SuperNode ended, or it gave up the task while this machine slept. It reports
                # that to the server itself.
                _say(f"a message gets no reply: {brief(error)}")
            time.sleep(POLL_SECONDS)
    return answered


def _run(task: RuntimeHttpClient, guard: Guard) -> None:
    """Answer one message, if the policy allows it."""
    message, context, _, _ = pull_task_input(task)
    try:
        reply = answer(message, context, guard)
    except Exception as error:
        failure = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error))
        reply = Message(failure, reply_to=message)
    push_message(task, reply, context)
    push_task_output(task, None, SubStatus.COMPLETED, "")


def answer(message: Message, context: Context, guard: Guard) -> Message:
    """Return the ClientApp's reply to a message.

    Raises
    ------
    Refused
        If the policy does not allow an answer. The reason stays in the node's own log.
    """
    try:
        guard.check(message)
    except Refused as error:
        _say(f"refused: {error}")
        raise Refused(REFUSAL) from None
    return app(message, context)


def _say(line: str) -> None:
    print(f"fedser-node: {line}", file=sys.stderr, flush=True)
