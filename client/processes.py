"""Flower's commands as processes that do not outlive the one that started them."""

import ctypes
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

PR_SET_PDEATHSIG = 1
STOP_SECONDS = 10.0


def command(name: str) -> str:
    """Return the path of a command that came with this Python's packages."""
    return str(Path(sys.executable).with_name(name))


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(
    arguments: Sequence[str], log: Path | None = None, orphaned: int = signal.SIGTERM
) -> "Iterator[subprocess.Popen[bytes]]":
    """Run a command meanwhile, in a session of its own; it ends with this process at the latest.

    Parameters
    ----------
    log : Path, optional
        Takes what it prints.
    orphaned : int
        Signal that ends it if this process dies.
    """
    output = log.open("ab") if log else None
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,  # Ctrl-C reaches this process alone
            preexec_fn=partial(_end_with_parent, orphaned) if sys.platform == "linux" else None,
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


def _end_with_parent(orphaned: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, orphaned)
