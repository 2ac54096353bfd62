import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from client.threads import cores, spread


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
    [("1", 1), ("3", 3), ("64", 4), ("0", 1), ("", 4), ("many", 4), (None, 4)],
)
def test_cores_are_those_of_the_machine_or_as_many_as_were_told(said, expected, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert cores() == expected
