"""Threads that stay: to start one costs as much as to train a client."""

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


class _Pools(threading.local):
    """The pool of whoever asks: servers that run side by side do not wait for each other."""

    threads = 0
    pool: ThreadPoolExecutor | None = None


_own = _Pools()


def cores() -> int:
    """Return how many cores this process may use: this machine's, or as OMP_NUM_THREADS says.

    joblib says so to workers that run side by side, the jobs of a sweep among them.
    """
    here, said = os.cpu_count() or 1, os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(here, int(said))) if said.isdecimal() else here


def spread(threads: int, work: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Return what `work` makes of each item, done on so many threads, in order."""
    if threads == 1:
        return [work(item) for item in items]
    if _own.pool is None or _own.threads != threads:
        _own.threads, _own.pool = threads, ThreadPoolExecutor(threads)
    return list(_own.pool.map(work, items))
