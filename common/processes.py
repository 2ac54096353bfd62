"""Child processes that end with their parent: Flower's commands and workers."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from joblib import Parallel

PR_SET_PDEATHSIG = 1
STOP_SECONDS = 10.0

T = TypeVar("T")


def command(name: str) -> str:
    """Return the path of a command that is installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(
    arguments: Sequence[str], log: Path | None = None, orphaned: int = signal.SIGTERM
) -> "Iterator[subprocess.Popen[bytes]]":
    """Run a command in its own session during the block; it ends with this process at the latest.

    Parameters
    ----------
    log : Path, optional
        File for its output.
    orphaned : int
        Signal to the command if this process dies.
    """
    output = log.open("ab") if log else None
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,  # Ctrl-C reaches this process alone
            preexec_fn=partial(end_with_parent, os.getpid(), orphaned),
        )
    finally:
        if output:
            output.close()
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def side_by_side(
    tasks: Iterable[tuple[Callable[..., T], tuple[Any, ...], dict[str, Any]]], processes: int
) -> "Iterator[T]":
    """Yield the results of joblib's delayed calls in order, computed by worker processes.

    The workers end with this process, even if it is killed. Joblib's tracker then removes their
    shared memory.
    """
    # A single worker would run in this process, which must not get the signal.
    ending = {"initializer": end_with_parent, "initargs": (os.getpid(),)}
    started = ending if processes > 1 else {}
    found: Iterator[T] = Parallel(n_jobs=processes, return_as="generator", **started)(tasks)
    return found


def end_with_parent(parent: int, orphaned: int = signal.SIGKILL) -> None:
    """Let the system send this process a signal when its parent dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, orphaned)
    if os.getppid() != parent:  # the parent is already dead
        os.kill(os.getpid(), orphaned)
