"""Tasks of Flower's Runtime API, which SuperNodes and SuperLinks offer to processes with apps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient

RETRY_SECONDS = 5
"""Maximum pause between two attempts of a request."""

TEMPORARY = (502, 503, 504)
"""HTTP statuses of an API that will soon be back."""


def retries(gone: Callable[[], bool], patience: float | None) -> RetryInvoker:
    """Return a rule to repeat requests while the API cannot be reached.

    Flower's own rule repeats them forever, even if the API has ended. It also interrupts this
    process if the API was restarted and does not know its task.

    Parameters
    ----------
    gone : callable
        Return whether the API has ended; then the last error is raised.
    patience : float or None
        Number of seconds after which the last error is raised, too; None: never.
    """

    def hopeless(error: Exception) -> bool:
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code not in TEMPORARY:
            return True
        return gone()

    return RetryInvoker(
        lambda: exponential(max_delay=RETRY_SECONDS),
        (httpx.TransportError, httpx.HTTPStatusError),
        max_tries=None,
        max_time=patience,
        should_giveup=hopeless,
    )


class Runtime:
    """The Runtime API at an address. Use as a context manager.

    Parameters
    ----------
    root_certificates : bytes or None
        None: no TLS.
    secret : bytes
        Content of the ``--superexec-auth-secret-file``.
    retrying : RetryInvoker
        Rule for the requests of a task.
    """

    def __init__(
        self,
        address: str,
        root_certificates: bytes | None,
        secret: bytes,
        retrying: RetryInvoker,
    ) -> None:
        self._address, self._root_certificates = address, root_certificates
        self._retrying = retrying
        method = "/flwr.proto.Runtime/AcquireTask"
        auth = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={method})
        self._client = self._connect("SuperExec", auth, None)

    def __enter__(self) -> Self:
        """Return the API."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._client.close()

    def acquire(self, kind: TaskType) -> str | None:
        """Return the token of a waiting task; None if no task waits or the API is away."""
        try:
            found = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=[kind]))
        except httpx.TransportError:  # not up yet, or gone
            return None
        return str(found.token) if found.HasField("task") and found.token else None

    @contextmanager
    def task(self, token: str) -> Iterator[RuntimeHttpClient]:
        """Return the connection for one task, and send heartbeats for the task meanwhile."""
        client = self._connect("flwr-app", RuntimeTokenHttpInterceptor(token), self._retrying)
        # Without retries: the next heartbeat replaces one that failed.
        heartbeat_client = self._connect("flwr-app", RuntimeTokenHttpInterceptor(token), None)

        def beat() -> bool:
            """An API that gave up the task says so at the next request of the task."""
            try:
                return bool(heartbeat_client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success)
            except httpx.HTTPError:
                return False

        heartbeat = HeartbeatSender(beat)
        heartbeat.start()
        try:
            yield client
        finally:
            if heartbeat.is_running:
                heartbeat.stop()
            for connection in (client, heartbeat_client):
                connection.close()

    def _connect(
        self,
        name: str,
        auth: SuperExecAuthHttpInterceptor | RuntimeTokenHttpInterceptor,
        retrying: RetryInvoker | None,
    ) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            self._address,
            self._root_certificates is None,
            self._root_certificates,
            [RuntimeVersionHttpInterceptor(component_name=name), auth],
            retry_invoker=retrying,
        )
