import os

import numpy as np
import pytest
from scipy.stats import kstest, norm

from fedser.common.seeds import Reproducible, SystemEntropy, noise_source, numpy_stream, uniforms

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


@pytest.mark.parametrize("source", [SystemEntropy(), Reproducible(0, "a")])
def test_words_are_uniform_in_every_bit(source):
    words = source.words(COUNT)
    assert words.dtype == np.uint64 and words.shape == (COUNT,)
    ones = [np.mean(words >> np.uint64(place) & np.uint64(1)) for place in range(64)]
    assert np.abs(np.array(ones) - 0.5).max() < norm.isf(1e-11) * 0.5 / np.sqrt(COUNT)


def test_uniforms_are_uniform_in_the_unit_interval():
    drawn = uniforms(SystemEntropy(), COUNT)
    assert drawn.dtype == np.float64 and drawn.shape == (COUNT,)
    assert drawn.min() >= 0 and drawn.max() < 1
    assert kstest(drawn, "uniform").pvalue > 1e-9
    bits = (drawn * 2**53).astype(np.uint64)
    np.testing.assert_array_equal(bits.astype(float) * 2**-53, drawn)


@pytest.mark.parametrize(("bits", "uniform"), [(0, 0.0), (2**64 - 1, 1 - 2**-53)])
def test_the_extreme_words_give_uniforms_in_range(bits, uniform):
    class Extreme:
        def words(self, count):
            return np.full(count, bits, np.uint64)

    assert uniforms(Extreme(), 1)[0] == uniform


def test_the_system_gives_every_draw_a_key_of_its_own(monkeypatch):
    keys = []
    real = os.urandom
    monkeypatch.setattr(os, "urandom", lambda size: keys.append(real(size)) or keys[-1])
    drawn = [SystemEntropy().words(4), *(noise_source(None, 1, "a").words(4) for _ in range(2))]
    assert [len(key) for key in keys] == [32] * 3 and len(set(keys)) == 3
    assert len({words.tobytes() for words in drawn}) == 3


def test_the_system_s_words_are_the_keystream_of_aes(monkeypatch):
    monkeypatch.setattr(os, "urandom", lambda size: bytes(size))
    # the first block of AES-256 in counter mode, key and counter zero (NIST SP 800-38A's cipher)
    expected = "dc95c078a2408989ad48a21492842087530f8afbc74536b9a963b4f1c4cb738b"
    assert SystemEntropy().words(4).tobytes().hex() == expected


def test_a_source_with_a_seed_follows_its_name_alone():
    first, again, other = (noise_source(1, "noise", c).words(5) for c in (2, 2, 3))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    source = noise_source(1, "noise", 2)
    np.testing.assert_array_equal([*source.words(2), *source.words(3)], first)
