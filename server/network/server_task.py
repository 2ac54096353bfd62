"""Run a study as the ServerApp of a SuperLink, in this process.

The SuperLink runs with ``--isolation process``, and this process takes the task of the ServerApp
itself. So the output, the files and the errors of a networked study are those of a simulation.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import SubStatus
from flwr.common.serde import run_from_proto
from flwr.proto.runtime_pb2 import PullTaskInputRequest, PushTaskOutputRequest
from flwr.serverapp import Grid
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.retry import RetryInvoker
from flwr.supercore.task_identity import TaskIdentity
from rich.console import Console

from fedser.client.node.tasks import Runtime
from fedser.common.errors import UserError
from fedser.server.network.polling import POLL_SECONDS, poll_each_reply

TASK_SECONDS = 180.0
"""Time for the SuperLink to give out the task of a run."""

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
"""The submitted app: it names what every machine has installed, and holds no code."""

console = Console(stderr=True)


def build_app() -> Fab:
    """Return the app that is submitted to the SuperLink."""
    content, _ = build_fab_from_files(
        {"pyproject.toml": APP.format(version=version("fedser")).encode()}
    )
    return Fab(hashlib.sha256(content).hexdigest(), content, {})


@contextmanager
def server_task(
    address: str, authority: bytes | None, api: Runtime, retrying: RetryInvoker, run_id: int
) -> Iterator[Grid]:
    """Take the ServerApp task of our run, give its grid, and report how the task ended.

    Anybody who reaches the control API can start runs: tasks of other runs are rejected.

    Parameters
    ----------
    authority : bytes or None
        Certificate of the authority; None for a connection without TLS.
    """
    from flwr.superlink.grid import HttpGrid  # slow to import, with SQLAlchemy

    deadline = time.monotonic() + TASK_SECONDS
    while True:
        token = _wait_for_token(address, api, deadline)
        with api.task(token) as task:
            given = task.PullTaskInput(PullTaskInputRequest())
            if given.run.run_id != run_id:
                console.print(f"rejected a task of run {given.run.run_id}, which is not ours")
                task.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.FAILED))
                continue
            grid = HttpGrid(address, authority is None, authority, token=token)
            grid._retry_invoker = retrying  # before it connects: its own never gives up
            poll_each_reply(grid)
            TaskIdentity.task_id, TaskIdentity.run_id = given.task_id, given.run.run_id
            TaskIdentity.node_id = given.context.node_id
            grid.set_run(run_from_proto(given.run))
            status = SubStatus.FAILED
            try:
                yield grid
                status = SubStatus.COMPLETED
            finally:
                grid.close()
                retrying.max_tries = 1  # the SuperLink may be gone: then nothing is reported
                with suppress(httpx.HTTPError):
                    task.PushTaskOutput(PushTaskOutputRequest(sub_status=status))
        return


def _wait_for_token(address: str, api: Runtime, deadline: float) -> str:
    """Wait for a task of a run, and return its token."""
    while time.monotonic() < deadline:
        try:
            if token := api.acquire(TaskType.SERVER_APP):
                return token
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.UNAUTHORIZED:
                raise
            raise UserError(
                f"runtime.secret: not the secret that the SuperLink at {address} was given as "
                "--superexec-auth-secret-file; set it to that file"
            ) from error
        time.sleep(POLL_SECONDS)
    raise UserError(
        f"runtime.address={address}: the SuperLink gives out no task; start it with "
        "--isolation process, and start no other process there that runs apps"
    )
