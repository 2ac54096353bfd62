"""Signals that end a run in order."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from threading import Event, Thread
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN_SECONDS = 3.0
"""Two signals within these seconds count as one: a terminal and a parent both send it."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the process to end.

    Parameters
    ----------
    number : int
        Number of the signal.

    Attributes
    ----------
    status : int
        Exit status by convention: 130 after SIGINT, 143 after SIGTERM.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` in the main thread on SIGINT and SIGTERM, unless they are ignored.

    SIGINT is blocked and a thread waits for it: see `spare_children`. After the signal, threads
    that fail print nothing, because the threads of libraries are interrupted in their work.
    """
    last, over = -AGAIN_SECONDS, Event()
    waited_for: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last
        number = waited_for.pop() if waited_for else number
        if (now := time.monotonic()) - last >= AGAIN_SECONDS:
            last = now
            threading.excepthook = _nothing_to_say
            raise Interrupted(number)

    def wait() -> None:
        while signal.sigwait({signal.SIGINT}) and not over.is_set():
            waited_for.append(signal.SIGINT)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, interrupt)
    waited = {signal.SIGINT}.intersection(taken)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    waiting = [Thread(target=wait, daemon=True) for _ in waited]
    for thread in waiting:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in waiting:  # otherwise it would wait forever if SIGINT is ignored
            signal.pthread_kill(thread.ident or 0, signal.SIGINT)
            thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number in taken:
            signal.signal(number, before[number])


def _nothing_to_say(failed: threading.ExceptHookArgs) -> None:
    """Replace `threading.excepthook` in a process that is ending."""


def spare_children() -> None:
    """Block SIGINT, so that processes started from now on inherit the block.

    A terminal sends SIGINT to them too, but this process must end them in order. Python's resource
    tracker unblocks SIGINT when it starts, so it is started first.
    """
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
