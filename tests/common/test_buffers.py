import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from fedser.common import buffers
from fedser.common.buffers import borrow


@pytest.fixture(autouse=True)
def empty():
    gc.collect()
    buffers.clear()
    yield
    buffers.clear()


def address(array):
    return array.ctypes.data


def test_memory_is_used_again_once_nobody_holds_it():
    first = borrow((3, 4), np.float32)
    at = address(first)
    assert first.shape == (3, 4) and first.dtype == np.float32 and first.flags.writeable
    second = borrow((3, 4), np.float32)
    assert address(second) != at
    del first
    assert address(borrow((6,), np.float64)) == at


@pytest.mark.parametrize(
    "keep",
    [
        lambda a: a[1:2],
        lambda a: a[1:][:1].reshape(-1),
        lambda a: torch.from_numpy(a[1]),
        lambda a: memoryview(a[1]),
        lambda a: np.asarray(a, np.float32)[1],
    ],
)
def test_whoever_holds_a_part_keeps_the_whole(keep):
    array = borrow((3, 4), np.float32)
    array[:] = 7
    at, part = address(array), keep(array)
    del array
    others = [borrow((3, 4), np.float32) for _ in range(3)]
    assert at not in map(address, others)
    for other in others:
        other[:] = 0
    assert np.all(np.asarray(part) == 7)
    del part, others
    assert at in [address(a) for a in [borrow((3, 4), np.float32) for _ in range(4)]]


def test_a_buffer_serves_what_is_up_to_half_as_large():
    at = address(borrow((100,), np.uint8))
    small, fitting = borrow((49,), np.uint8), borrow((50,), np.uint8)
    assert address(small) != at and address(fitting) == at


def test_an_empty_array_can_be_borrowed():
    assert borrow((0, 5), np.float32).shape == (0, 5)


def test_no_more_is_kept_than_stated(monkeypatch):
    monkeypatch.setattr(buffers, "MOST_FREE", 3)
    held = [borrow((10,), np.float32) for _ in range(8)]
    held.clear()
    assert len(buffers._free) == 3


def test_arrays_may_go_while_others_are_borrowed():
    def churn(seed):
        sizes = np.random.default_rng(seed).integers(1, 60, 2000)
        held = []
        for size in sizes.tolist():
            held.append([borrow((size,), np.uint8)])
            held[-1].append(held[-1])  # a cycle: it goes when garbage is collected
            del held[:-20]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(churn, range(4)))
