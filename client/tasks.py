"""Tasks of Flower's Runtime API, which SuperNodes and SuperLinks serve to those who run apps."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import RetryInvoker, make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient


class Runtime:
    """The Runtime API at an address. Use as a context manager.

    Parameters
    ----------
    root_certificates : bytes or None
        None: without TLS.
    secret : bytes
        That of the ``--superexec-auth-secret-file``.
    """

    def __init__(self, address: str, root_certificates: bytes | None, secret: bytes) -> None:
        self._address, self._root_certificates = address, root_certificates
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
        """Return the token of a task that waits to be run; None if there is none, or no API."""
        try:
            found = self._client.AcquireTask(AcquireTaskRequest(supported_task_types=[kind]))
        except httpx.TransportError:  # not up yet, or gone
            return None
        return str(found.token) if found.HasField("task") and found.token else None

    @contextmanager
    def task(self, token: str) -> Iterator[RuntimeHttpClient]:
        """Return the connection that a task is run over."""
        retries = make_simple_http_retry_invoker()
        client = self._connect("flwr-app", RuntimeTokenHttpInterceptor(token), retries)
        try:
            yield client
        finally:
            client.close()

    def _connect(
        self,
        name: str,
        auth: SuperExecAuthHttpInterceptor | RuntimeTokenHttpInterceptor,
        retries: RetryInvoker | None,
    ) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            self._address,
            self._root_certificates is None,
            self._root_certificates,
            [RuntimeVersionHttpInterceptor(component_name=name), auth],
            retry_invoker=retries,
        )


@contextmanager
def alive(task: RuntimeHttpClient) -> Iterator[None]:
    """Say meanwhile that a task is being run.

    It must be over before the task is: Flower interrupts a process that says so of another.
    """
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(task))
    heartbeat.start()
    try:
        yield
    finally:
        if heartbeat.is_running:
            heartbeat.stop()
