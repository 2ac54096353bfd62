"""Protect Ray with a token.

By default Ray listens on all interfaces, and runs code for anybody who reaches its ports. A
cluster that fedser starts listens on the loopback interface only, and asks for a new secret token.
A cluster that runs already must have been started with a token.
"""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
from ray import _raylet
from ray._private import ray_constants

from fedser.common.errors import UserError

MODE = {"RAY_AUTH_MODE": "token"}

HEALTH_CALL = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""A call that a cluster answers to anybody if it was started without a token."""

ANSWER_SECONDS = 10.0

TOKEN_HELP = (
    "run `ray get-auth-token --generate`, copy ~/.ray/auth_token to each machine (readable by you "
    "alone), and set RAY_AUTH_MODE=token for `ray start` and for fedser"
)

ray_private: Any = _raylet


@contextmanager
def own_token() -> Iterator[None]:
    """Make Ray start on the loopback interface and ask for a new token, within this context."""
    fresh = {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_AUTH_TOKEN_PATH": None}
    before = ray_constants.ENABLE_RAY_CLUSTER
    with _environment({**MODE, **fresh}):
        # Ray listens on 127.0.0.1 only if it believes that this system supports no clusters;
        # otherwise it ignores an address of 127.0.0.1.
        ray_constants.ENABLE_RAY_CLUSTER = False
        try:
            yield
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def given_token(address: str) -> Iterator[None]:
    """Make Ray send the user's token for a cluster, within this context.

    Raises
    ------
    UserError
        If there is no token, if it is the wrong one, or if the cluster asks for none.
    """
    with _environment(MODE):
        loader = ray_private.AuthenticationTokenLoader.instance()
        if not loader.has_token(ignore_auth_mode=True):
            raise UserError(
                f"runtime.ray_address={address}: no token for this cluster in RAY_AUTH_TOKEN, "
                f"RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token; {TOKEN_HELP}"
            )
        if _answers(address, ""):
            raise UserError(
                f"runtime.ray_address={address}: the cluster runs code for anybody who reaches it, "
                "because it was started without a token; stop it and start it with one: "
                f"{TOKEN_HELP}"
            )
        if not _answers(address, loader.get_raw_token(ignore_auth_mode=True)):
            raise UserError(
                f"runtime.ray_address={address}: the cluster was started with another token, or "
                f"does not answer; {TOKEN_HELP}"
            )
        yield


def _answers(address: str, token: str) -> bool:
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(HEALTH_CALL)(b"", metadata=metadata, timeout=ANSWER_SECONDS)
        except grpc.RpcError:
            return False
    return True


@contextmanager
def _environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Change environment variables for Ray and the processes that it starts; None removes one."""
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    # Ray reads the environment only once per process, so its copies are renewed here.
    ray_private.AuthenticationTokenLoader.instance().reset_cache()
    ray_private.Config.initialize("")
