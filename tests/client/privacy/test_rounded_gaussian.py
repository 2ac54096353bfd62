import math

import mpmath
import numpy as np
import pytest
from scipy.stats import chi2, chisquare, kstest, norm

from fedser.client.privacy.gaussian import gaussian_mu
from fedser.client.privacy.noise import clip_factor
from fedser.client.privacy.rounded_gaussian import (
    CELLS,
    QUANTILE_ERROR,
    TAIL_CELLS,
    _draw,
    _polynomials,
    _quantile,
    add_gaussian,
    add_noise,
    add_truncated,
    gaussian_integers,
    grid_step,
    standard_normal,
)
from fedser.common.seeds import Reproducible
from tests.examples import NoNoise


class Given:
    """A source that gives these words, and counts what it was asked for."""

    def __init__(self, *words):
        self.left, self.asked = list(words), 0

    def words(self, count):
        self.asked += count
        taken, self.left = self.left[:count], self.left[count:]
        return np.array(taken, np.uint64)


def quantile(tail, bits=64):
    """Minus the normal quantile of tail * 2^-bits, to 60 digits."""
    with mpmath.workdps(60):
        return mpmath.sqrt(2) * mpmath.erfinv(1 - 2 * mpmath.ldexp(tail, -bits))


@pytest.mark.parametrize("bits", [128, 192, 256])
def test_quantiles_are_exact_to_all_their_digits(bits):
    """For any probability: the error function of the result gives it back."""
    random = np.random.default_rng(bits)
    tails = [int.from_bytes(random.bytes(bits // 8), "big") >> 1 for _ in range(60)]
    tails += [tail >> shift for tail, shift in zip(tails, range(1, 121, 2), strict=True)]
    tails += [1, 2, 2 ** (bits - 1), 2 ** (bits - 1) - 1]
    for tail in tails:
        with mpmath.workprec(2 * bits + 64):
            p = mpmath.ldexp(tail, -bits)
            back = mpmath.erfc(_quantile(p) / mpmath.sqrt(2)) / 2
            assert abs(back - p) <= p * mpmath.ldexp(1, -bits - 32)


def tail_of(x):
    """Largest tail probability, in units of 2^-64, with a quantile of at least x."""
    with mpmath.workdps(60):
        return int(mpmath.floor(mpmath.ldexp(mpmath.erfc(x / mpmath.sqrt(2)) / 2, 64)))


@pytest.mark.parametrize("stddev", [0.3, 1.0, 7.5, 1000.0])
def test_integers_follow_the_law_of_rounded_normals(stddev):
    drawn = gaussian_integers(400_000, stddev, Reproducible(1, "law"))
    width = max(1, round(stddev / 5))
    edges = np.arange(-40, 41) * width - 0.5
    cells = np.diff(norm.cdf(edges / stddev), prepend=0, append=1)
    counts = np.diff(np.searchsorted(np.sort(drawn), edges), prepend=0, append=len(drawn))
    counts[0], counts[-1] = (drawn < edges[0]).sum(), (drawn > edges[-1]).sum()
    seen = cells * len(drawn) > 20
    observed = np.append(counts[seen], counts[~seen].sum())
    expected = np.append(cells[seen], cells[~seen].sum()) * len(drawn)
    if expected[-1] < 5:
        observed, expected = (
            observed[:-1],
            expected[:-1] * observed[:-1].sum() / expected[:-1].sum(),
        )
    assert chisquare(observed, expected).pvalue > 1e-6


def test_a_fine_grid_looks_like_the_normal_distribution():
    drawn = gaussian_integers(400_000, 1e6, Reproducible(2)) / 1e6
    assert kstest(drawn, "norm").pvalue > 1e-6
    for moment, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = abs(np.mean(drawn**moment) - expected)
        assert error < norm.isf(1e-7) * math.sqrt(variance / len(drawn))
    for far in (3.0, 4.0):
        count, rate = (np.abs(drawn) > far).sum(), 2 * norm.sf(far) * len(drawn)
        assert abs(count - rate) < 5 * math.sqrt(rate)
    lags = [np.mean(drawn[lag:] * drawn[:-lag]) for lag in (1, 2, 256)]
    assert np.abs(lags).max() < 5 / math.sqrt(len(drawn))


def test_polynomials_keep_their_bound_of_error():
    rng = np.random.default_rng(0)
    tails = rng.integers(TAIL_CELLS << 53, 1 << 63, 3000, dtype=np.uint64).tolist()
    edges = [cell << 53 for cell in range(TAIL_CELLS, 1024, 7)]
    tails += [*edges, *(edge + (1 << 53) - 1 for edge in edges)]
    worst = 0.0
    for tail in tails:
        t = (tail & ((1 << 53) - 1)) * 2.0**-53 - 0.5
        powers = t ** np.arange(8)
        found = float(_polynomials()[tail >> 53] @ powers)
        worst = max(worst, abs(float(found - quantile(tail))))
    assert worst < QUANTILE_ERROR / 16


@pytest.mark.parametrize("x", [0.001, 0.3, 1.7, 2.3, 3.5, 5.0, 6.5, 8.0])
@pytest.mark.parametrize("sign", [0, 1])
def test_a_word_gives_the_integer_of_its_quantile(x, sign):
    tail, stddev = tail_of(x), 12345.678
    expected = round(float(stddev * quantile(tail)))
    (drawn,) = gaussian_integers(1, stddev, Given(2 * tail + sign, 0, 0))
    assert drawn == (-expected if sign else expected)


def test_the_largest_stddev_gives_exact_integers_too():
    stddev = 2.0**40  # every term of the polynomials moves the integers
    words = np.random.default_rng(3).integers(0, 2**64, 2000, np.uint64).tolist()
    drawn = gaussian_integers(2000, stddev, Given(*words, *[0] * 1000))
    for word, integer in zip(words, drawn.tolist(), strict=True):
        with mpmath.workdps(60):
            expected = int(mpmath.floor(stddev * quantile(word >> 1) + 0.5))
        assert integer == (-expected if word & 1 else expected)


@pytest.mark.parametrize("x", [0.3, 1.7, 4.2])
@pytest.mark.parametrize("more", [0, 2**63, 2**64 - 1])
def test_further_bits_decide_beside_a_boundary(x, more):
    # The interval of the first 64 bits holds the boundary k + 1/2.
    k = 1_000_000
    stddev = (k + 0.5) / x
    source = Given(2 * tail_of(mpmath.mpf(k + 0.5) / stddev), more, 7)
    (drawn,) = gaussian_integers(1, stddev, source)
    tail = (tail_of(mpmath.mpf(k + 0.5) / stddev) << 64) | more
    with mpmath.workdps(60):
        expected = int(mpmath.floor(stddev * quantile(tail, 128) + 0.5))
    assert drawn == expected and drawn in (k, k + 1) and source.asked == 2


def test_the_smallest_tail_asks_for_bits_until_they_decide():
    source = Given(0, 0, 0, 2**63, 5, 5)
    (drawn,) = gaussian_integers(1, 10.0, source)
    assert 150 < drawn < 250 and source.asked >= 3  # beyond 15 standard deviations


def test_hardly_any_word_needs_further_bits():
    source = Reproducible(3)
    asked = []
    real = source.words
    source.words = lambda count: asked.append(count) or real(count)
    gaussian_integers(300_000, 4e6, source)
    assert asked[0] == 300_000 and sum(asked[1:]) < 20


def test_polynomials_decide_all_but_the_tails():
    words, drawn = Reproducible(3).words(100_000), np.empty(100_000, np.int64)
    undecided = np.empty_like(drawn)
    left = _draw(words, 1000.0, _polynomials(), drawn, undecided)
    expected = len(words) * TAIL_CELLS / CELLS
    assert abs(left - expected) < 6 * math.sqrt(expected)


def test_no_noise_is_zero_and_too_much_is_refused():
    assert not gaussian_integers(5, 0.0, Given()).any()
    for stddev in (-1.0, math.nan, math.inf, 2.0**41):
        with pytest.raises(ValueError, match="stddev"):
            gaussian_integers(1, stddev, NoNoise())


@pytest.mark.parametrize(("norm_bound", "size"), [(0.1, 286_596), (1e-9, 3), (1e6, 1)])
def test_the_step_is_a_power_of_two_below_a_thousandth(norm_bound, size):
    step = grid_step(norm_bound, size)
    assert math.frexp(step)[0] == 0.5
    assert step <= norm_bound / math.sqrt(size) / 1024 < 2 * step
    assert grid_step(norm_bound, size, 1e3 * norm_bound) == step
    huge = 1e15 * norm_bound
    assert 2**29 <= huge / grid_step(norm_bound, size, huge) <= 2**30


@pytest.mark.parametrize(
    "values",
    [
        np.eye(1, 50, dtype=np.float32)[0] * 7,
        np.full(5000, 0.3, np.float32),
        np.full(5000, -1e30, np.float32),
        np.float32([1e-45, -1e-40, 3e38]),
        np.random.default_rng(0).standard_normal(5000).astype(np.float32),
    ],
)
def test_truncation_raises_no_norm(values):
    step = grid_step(0.5, values.size)
    total = np.zeros(values.size, np.int64)
    add_truncated(total, values, clip_factor({"a": values}, 0.5), step)
    assert sum(k * k for k in total.tolist()) <= (0.5 / step) ** 2  # exact: step is a power of 2
    add_truncated(total, np.full_like(values, np.nan), 1.0, step)
    assert sum(k * k for k in total.tolist()) <= (0.5 / step) ** 2


def test_released_values_are_multiples_of_the_step():
    values = np.random.default_rng(1).standard_normal((30, 40)).astype(np.float32)
    step, stddev = 2.0**-12, 0.25
    sent = add_noise(values, 0.5, step, stddev, Reproducible(4))
    assert sent.shape == values.shape and sent.dtype == np.float32
    counts = sent.astype(np.float64) / step
    np.testing.assert_array_equal(counts, np.rint(counts))
    drawn = gaussian_integers(1200, stddev / step, Reproducible(4)).reshape(30, 40)
    np.testing.assert_array_equal(counts, np.trunc(values * np.float64(0.5) / step) + drawn)


def test_noise_without_a_clip_keeps_the_update_to_a_millionth():
    update = {"a": np.float32([[3.0, -2.5], [1e-3, 0]]), "b": np.zeros(2000, np.float32)}
    kept = add_gaussian(update, 0.7, NoNoise())
    np.testing.assert_allclose(kept["a"], update["a"], atol=0.7 * 2**-19)
    sent = add_gaussian(update, 0.7, Reproducible(5))
    low, high = chi2.ppf([1e-7, 1 - 1e-7], 2000)
    assert low < np.square(sent["b"].astype(float) / 0.7).sum() < high
    assert add_gaussian(update, 0.0, Given()) is update
    odd = {"a": np.float32([math.nan, -math.inf, 3e38, 1.0])}
    np.testing.assert_array_equal(add_gaussian(odd, 1e-3, NoNoise())["a"], odd["a"])


@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 3, 4)])
def test_standard_normals_have_shape_and_type(shape):
    drawn = standard_normal(Reproducible(6), shape)
    assert drawn.shape == shape and drawn.dtype == np.float32


def test_standard_normals_follow_their_law():
    assert kstest(standard_normal(Reproducible(7), (50, 2000)).reshape(-1), "norm").pvalue > 1e-6


D, TRIALS, STDDEV = 20_000, 200, 1 / gaussian_mu(1.0, 1e-5)
"""Coordinates, and a deviation for epsilon 1 between two updates at distance 1."""


def candidates(trial):
    rng = np.random.default_rng(trial)
    one = rng.standard_normal(D)
    other = one + rng.standard_normal(D) / math.sqrt(D)
    return [np.float32(update / np.linalg.norm(one)) for update in (one, other)]


def near(values):
    """Float32 values and both of their neighbours, stacked."""
    return np.stack([values, *(np.nextafter(values, np.float32(side)) for side in (-9e9, 9e9))])


def impossible(sent, update, stddev):
    """Count coordinates that ``update + stddev * z`` reaches in float32 for no float32 z."""
    added = near(sent - update)
    fits = update + added == sent
    drawn = near(added / stddev)
    fits &= (stddev * drawn == added).any(axis=0)
    return int((~fits.any(axis=0)).sum())


def told_apart(release):
    """Share of trials in which bits, then likelihood, tell the update that was sent."""
    right = 0
    for trial in range(TRIALS):
        pair, sent_one = candidates(trial), trial % 2
        sent = release(pair[sent_one], trial)
        odd = [impossible(sent, update, np.float32(STDDEV)) for update in pair]
        clear = abs(odd[0] - odd[1]) > 4 * math.sqrt(sum(odd) + 1)
        distance = [float(np.square(sent.astype(float) - update).sum()) for update in pair]
        right += int(np.argmin(odd if clear else distance)) == sent_one
    return right / TRIALS


def test_bits_of_float32_noise_tell_two_updates_apart():
    def in_float32(update, trial):
        drawn = np.random.default_rng(trial).standard_normal(D, np.float32)
        return update + np.float32(STDDEV) * drawn

    assert told_apart(in_float32) > 0.95


def test_bits_of_noise_on_the_grid_do_not():
    step = grid_step(1.0, D)

    def on_grid(update, trial):
        return add_noise(update, 1.0, step, STDDEV, Reproducible(trial, "grid"))

    assert abs(told_apart(on_grid) - 0.5) < 0.15
