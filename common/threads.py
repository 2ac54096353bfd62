"""Threads that stay: to start one costs as much as to train a client."""

import math
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from joblib import cpu_count

_CGROUPS, _CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

S = TypeVar("S")
T = TypeVar("T")


class _Pools(threading.local):
    """The pool of whoever asks: servers that run side by side do not wait for each other."""

    threads = 0
    pool: ThreadPoolExecutor | None = None


_own = _Pools()


def cores() -> int:
    """Return how many cores this process may use: all of its processes together.

    The least of the processor's cores, the process's affinity (``taskset``), the quota of its
    control group and of those above it (containers, ``systemd-run``), and OMP_NUM_THREADS.
    joblib sets the last one for workers that run side by side, the jobs of a sweep among them.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    limits: list[int] = [cpu_count(), *_quotas(), *([int(asked)] if asked.isdecimal() else [])]
    return max(1, min(limits))


def _quotas() -> list[int]:
    """Return the cores that control groups (version 2) leave to this process, rounded up.

    joblib reads only the root of what a container sees of them.
    """
    quotas = []
    with suppress(OSError, ValueError):
        entries = _CGROUP.read_text().splitlines()
        own = next((e.removeprefix("0::/") for e in entries if e.startswith("0::/")), "")
        for group in (_CGROUPS / own, *(_CGROUPS / own).parents):
            if not group.is_relative_to(_CGROUPS):
                break
            with suppress(FileNotFoundError):
                quota, _, period = (group / "cpu.max").read_text().partition(" ")
                quotas += [math.ceil(int(quota) / int(period))] if quota != "max" else []
    return quotas


def spread(threads: int, work: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Return what `work` makes of each item, done on so many threads, in order."""
    if threads == 1:
        return [work(item) for item in items]
    if _own.pool is None or _own.threads != threads:
        _own.threads, _own.pool = threads, ThreadPoolExecutor(threads)
    return list(_own.pool.map(work, items))
