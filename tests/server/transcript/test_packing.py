"""Half precision: the rounding error of numbers of any size."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedser.server.transcript.packing import pack, unpack


def through(arrays):
    packed = np.empty(arrays.shape, np.float16)
    scale = np.empty(len(arrays), np.float32)
    pack(arrays, packed, scale)
    assert np.isfinite(packed).all()
    assert (np.frexp(scale)[0] == 0.5).all()  # a power of two
    return unpack(packed, scale)


def check_bound(arrays, found):
    """Half a unit in the last place; 2^-39 of the norm for numbers below 2^-28 of the norm."""
    wide = arrays.astype(np.float64)
    norm = np.sqrt(np.square(wide).sum(axis=tuple(range(1, arrays.ndim)), keepdims=True))
    allowed = np.where(np.abs(wide) >= norm * 2.0**-28, np.abs(wide) * 2.0**-11, norm * 2.0**-39)
    assert (np.abs(found - wide) <= allowed).all()


@settings(deadline=None)  # compiled at first
@given(
    seed=st.integers(0, 10**6),
    exponent=st.integers(-148, 120),
    spread=st.integers(0, 40),
    width=st.sampled_from([(1,), (7,), (3, 5), (90, 11)]),
)
def test_only_mantissa_is_lost_at_any_magnitude(seed, exponent, spread, width):
    rng = np.random.default_rng(seed)
    size = np.ldexp(1.0, exponent - rng.integers(0, spread + 1, (4, *width)))
    arrays = (rng.normal(size=(4, *width)) * size).astype(np.float32)
    check_bound(arrays, through(arrays))


def test_each_row_has_its_own_scale():
    rows = np.random.default_rng(0).normal(size=(6, 50)).astype(np.float32)
    rows *= np.array([1e-45, 1e-30, 0, 1, 1e15, 3e37], np.float32)[:, None]
    found = through(rows)
    check_bound(rows, found)
    assert (found[2] == 0).all() and (found[4] != 0).all()


@pytest.mark.parametrize("value", [3.4e38, 2.0**-149, -(2.0**-126)])
def test_the_largest_and_smallest_numbers_are_kept(value):
    arrays = np.zeros((2, 3), np.float32)
    arrays[0, 1], arrays[1] = value, value
    np.testing.assert_allclose(through(arrays), arrays, rtol=2**-11)


@settings(deadline=None)  # compiled at first
@given(seed=st.integers(0, 10**6), width=st.sampled_from([1, 15, 2047, 2048, 2049, 5000]))
def test_every_number_is_rounded_as_in_ieee_754(seed, width):
    rng = np.random.default_rng(seed)
    arrays = (rng.normal(size=(3, width)) * np.exp2(rng.uniform(-45, 0, (3, width)))).astype("f4")
    arrays[:, ::7] = np.exp2(rng.integers(-30, 0, arrays[:, ::7].shape)) * 1.00048828125  # ties
    packed, scale = np.empty(arrays.shape, np.float16), np.empty(3, np.float32)
    pack(arrays, packed, scale)
    expected = (arrays / scale[:, None]).astype(np.float16)
    np.testing.assert_array_equal(packed.view(np.uint16), expected.view(np.uint16))


def test_read_only_and_empty_arrays_are_packed():
    arrays = np.ones((2, 3), np.float32)
    arrays.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(through(arrays), 1)
        assert through(arrays[:0]).shape == (0, 3)
