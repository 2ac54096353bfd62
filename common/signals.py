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
"""A signal so soon after another one is the same: a terminal and a parent both send it."""


class Interrupted(KeyboardInterrupt):
    """The process was asked to end.

    Parameters
    ----------
    number : int
        Of the signal.

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
    """Have SIGINT and SIGTERM raise `Interrupted` in the main thread, unless they are ignored.

    A thread waits for SIGINT, which is blocked here: see `spare_children`. From the signal on,
    threads that fail print nothing: libraries' own threads lose their work in the middle of it.
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
        for thread in waiting:  # where SIGINT is ignored nothing would wake it
            signal.pthread_kill(thread.ident or 0, signal.SIGINT)
            thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number in taken:
            signal.signal(number, before[number])


def _nothing_to_say(failed: threading.ExceptHookArgs) -> None:
    """Take the place of `threading.excepthook` in a process that is ending."""


def spare_children() -> None:
    """Have processes that are started from now on inherit that SIGINT is blocked.

    A terminal sends it to them, too, and they are to end in order, by this process. Python's
    resource tracker unblocks it when it is started, so that it comes first.
    """
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
