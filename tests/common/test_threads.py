import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from fedser.common import threads
from fedser.common.threads import cores, spread

pytestmark = pytest.mark.all_cores


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_results_come_in_order(threads):
    assert spread(threads, lambda x: x * x, range(20)) == [x * x for x in range(20)]
    assert spread(threads, str, []) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_a_failure_arrives(threads):
    with pytest.raises(ZeroDivisionError):
        spread(threads, lambda x: 1 // x, [1, 0])


def test_threads_stay():
    first, again = (set(spread(2, lambda _: threading.get_ident(), range(50))) for _ in range(2))
    assert len(first | again) <= 2 and threading.get_ident() not in first


def test_callers_do_not_wait_for_each_other():
    both = threading.Barrier(2, timeout=10)
    with ThreadPoolExecutor(2) as callers:
        list(callers.map(lambda _: spread(2, lambda _: both.wait(), [0]), range(2)))


@pytest.mark.parametrize(
    ("said", "expected"),
    [("1", 1), ("3", 3), ("64", 4), ("0", 1), ("", 4), ("many", 4), (None, 4), ("2,1", 2)],
)
def test_omp_num_threads_lowers_the_number_of_cores(said, expected, monkeypatch):
    monkeypatch.setattr(threads, "cpu_count", lambda: 4)
    monkeypatch.setattr(threads, "_quotas", list)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert cores() == expected


def test_cores_follow_the_affinity_of_the_process():
    asked = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"
    script = f"{asked}; from fedser.common.threads import cores; print(cores())"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert told.stdout == b"1\n"


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({}, 8),
        ({".": "max 100000"}, 8),
        ({"study/job": "250000 100000", "study": "max 100000"}, 3),
        ({"study/job": "max 100000", "study": "100000 50000", ".": "500000 100000"}, 2),
        ({"study/job": "1000 100000"}, 1),
        ({"other": "100000 100000"}, 8),
    ],
)
def test_cores_follow_the_quota_of_control_groups(quotas, expected, tmp_path, monkeypatch):
    (tmp_path / "own").write_text("4:memory:/elsewhere\n0::/study/job\n")
    for group, quota in quotas.items():
        (tmp_path / "groups" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / group / "cpu.max").write_text(quota)
    monkeypatch.setattr(threads, "_CGROUP", tmp_path / "own")
    monkeypatch.setattr(threads, "_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(threads, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert cores() == expected
