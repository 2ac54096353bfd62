"""A pool of threads that is kept: starting a thread costs as much as training a client."""

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
    """One pool per calling thread, so that concurrent servers do not wait for each other."""

    threads = 0
    pool: ThreadPoolExecutor | None = None


_own = _Pools()


def cores() -> int:
    """Return the number of cores that this process and its children may use together.

    It is the minimum of the processor's cores, the process's affinity (``taskset``), the quota of
    its control group and of the groups above it (containers, ``systemd-run``), and OMP_NUM_THREADS.
    Joblib sets OMP_NUM_THREADS for parallel workers, including the jobs of a sweep.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    limits: list[int] = [cpu_count(), *_quotas(), *([int(asked)] if asked.isdecimal() else [])]
    return max(1, min(limits))


def _quotas() -> list[int]:
    """Return the cores that each control group (version 2) allows this process, rounded up.

    Joblib reads only the root group of a container.
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
    """Apply `work` to each item on `threads` threads and return the results in order."""
    if threads == 1:
        return [work(item) for item in items]
    if _own.pool is None or _own.threads != threads:
        _own.threads, _own.pool = threads, ThreadPoolExecutor(threads)
    return list(_own.pool.map(work, items))
