import os

import numpy as np
import pytest
from scipy.stats import kstest, norm

from client.seeds import SystemEntropy, noise_source, numpy_stream

COUNT = 200_000


def test_a_stream_depends_on_its_name_and_seed_alone():
    first = numpy_stream(1, "cohort", 3).random(4)
    numpy_stream(1, "cohort", 4).random(100)
    np.testing.assert_array_equal(numpy_stream(1, "cohort", 3).random(4), first)
    others = [numpy_stream(2, "cohort", 3), numpy_stream(1, "cohort", 4), numpy_stream(1, "x", 3)]
    assert all(not np.array_equal(other.random(4), first) for other in others)


def test_streams_of_different_names_are_uncorrelated():
    x, y = (numpy_stream(0, "training", i).standard_normal(10_000) for i in (1, 2))
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.05


def test_secure_normals_have_the_moments_and_shape_of_the_normal_distribution():
    drawn = SystemEntropy().standard_normal((COUNT // 100, 100), np.float32).ravel()
    for moment, expected, variance in ((1, 0, 1), (2, 1, 2), (4, 3, 96)):
        error = np.mean(drawn.astype(float) ** moment) - expected
        assert abs(error) < norm.isf(1e-9) * np.sqrt(variance / COUNT)
    assert kstest(drawn, "norm").pvalue > 1e-9


def test_secure_uniforms_are_uniform_in_the_unit_interval():
    drawn = SystemEntropy().random(COUNT)
    assert drawn.dtype == np.float64 and drawn.shape == (COUNT,)
    assert drawn.min() >= 0 and drawn.max() < 1
    assert kstest(drawn, "uniform").pvalue > 1e-9
    bits = (drawn * 2**53).astype(np.uint64)
    np.testing.assert_array_equal(bits.astype(float) * 2**-53, drawn)
    ones = [np.mean(bits >> np.uint64(place) & np.uint64(1)) for place in range(53)]
    assert np.abs(np.array(ones) - 0.5).max() < norm.isf(1e-11) * 0.5 / np.sqrt(COUNT)


@pytest.mark.parametrize(("byte", "uniform", "sign"), [(0x00, 0.0, -1), (0xFF, 1 - 2**-53, 1)])
def test_the_extremes_of_the_entropy_stay_finite_and_in_range(monkeypatch, byte, uniform, sign):
    monkeypatch.setattr(os, "urandom", lambda size: bytes([byte]) * size)
    assert SystemEntropy().random(1)[0] == uniform
    extreme = SystemEntropy().standard_normal((1,), np.float64)[0]
    assert extreme == pytest.approx(sign * norm.isf(2.0**-53), rel=1e-12)


@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_secure_normals_honour_shape_and_type(shape, dtype):
    drawn = SystemEntropy().standard_normal(shape, dtype=dtype)
    assert drawn.shape == shape and drawn.dtype == dtype


def test_secure_draws_never_repeat():
    for source in (SystemEntropy(), noise_source(True, 1, "noise", 2)):
        assert not np.array_equal(source.random(4), source.random(4))
    first, again = (
        noise_source(True, 1, "noise").standard_normal((4,), np.float32) for _ in range(2)
    )
    assert not np.array_equal(first, again)


def test_a_seeded_noise_source_is_the_stream_of_its_name():
    first, again, other = (noise_source(False, 1, "noise", c).random(5) for c in (2, 2, 3))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, numpy_stream(1, "noise", 2).random(5))
    assert not np.array_equal(first, other)
