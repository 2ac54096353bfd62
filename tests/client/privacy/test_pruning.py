import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedser.client.privacy.pruning import (
    by_parameter,
    gather,
    in_one_order,
    largest,
    packed,
    scatter,
    unpacked,
)

SHAPES = {"dense.10.weight": (3, 4), "dense.2.weight": (5,), "dense.2.bias": (1,)}


def updates(k=3, seed=0):
    rng = np.random.default_rng(seed)
    return {n: rng.normal(0, 1, (k, *s)).astype(np.float32) for n, s in SHAPES.items()}


def mean(seed=0):
    return {name: array[0] for name, array in updates(1, seed).items()}


@given(st.integers(0, 99), st.floats(0.01, 1))
def test_the_largest_coordinates_are_kept(seed, kept):
    found, own = largest(mean(seed), kept), mean(seed)
    inside = np.concatenate([np.abs(own[n].ravel()[found[n]]) for n in SHAPES])
    outside = np.concatenate([np.abs(own[n].ravel()[~found[n]]) for n in SHAPES])
    assert len(inside) == max(1, round(kept * 18))
    assert outside.max(initial=0) <= inside.min()


def test_equal_magnitudes_are_kept_in_one_order():
    flat = {"b": np.ones(3, np.float32), "a": -np.ones(2, np.float32)}
    found = largest(flat, 0.6)
    assert found["a"].tolist() == [True, True] and found["b"].tolist() == [True, False, False]


@pytest.mark.parametrize("k", [1, 3])
def test_what_is_not_sent_is_zero(k):
    support, own = largest(mean(), 0.4), updates(k, 1)
    received = scatter(gather(own, support), support, mean())
    for name, shape in SHAPES.items():
        mask = support[name].reshape(shape)
        assert np.array_equal(received[name], np.where(mask, own[name], 0))
    all_sent = scatter(gather(own, None), None, mean())
    assert all(np.array_equal(all_sent[name], own[name]) for name in SHAPES)


def test_masks_pass_through_a_message():
    support = largest(mean(), 0.4)
    sent = packed(support)
    assert sum(mask.nbytes for mask in sent.values()) == 2 + 1 + 1
    received = unpacked(sent, updates())
    assert all(np.array_equal(received[name], support[name]) for name in SHAPES)
    with pytest.raises(KeyError):
        unpacked({}, updates())


def test_one_order_does_not_depend_on_the_order_of_names():
    flat = gather(updates(), None)
    turned = dict(reversed(flat.items()))
    assert np.array_equal(in_one_order(flat), in_one_order(turned))
    again = by_parameter(in_one_order(flat), turned)
    assert all(np.array_equal(again[name], flat[name]) for name in flat)
