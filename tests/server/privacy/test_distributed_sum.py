"""The sum of rounded Gaussian shares, held against continuous noise and uniform numbers."""

import math

import mpmath
import numpy as np
import pytest
from scipy.stats import norm

from fedser.client.privacy.distributed import LEAST_SHARE, counted_clients
from fedser.common.errors import UserError
from fedser.server.privacy.distributed_sum import (
    COARSEST,
    HALF,
    TAIL,
    DistributedSum,
)


def rounded_gaussian(stddev):
    """Probabilities of round(stddev Z) on the integers up to 40 standard deviations."""
    edges = np.arange(-math.ceil(40 * stddev), math.ceil(40 * stddev) + 2) - 0.5
    return np.diff(norm.cdf(edges, scale=stddev))


def smoothed(stddev, clients):
    """Density at the integers of N(0, clients stddev^2) plus the sum of uniforms on (-1/2, 1/2)."""
    size = 2**12
    frequency = np.fft.fftfreq(size)
    with np.errstate(under="ignore"):
        # the characteristic function of the sum, repeated at all integers (Poisson's formula)
        total = sum(
            np.exp(-2 * (np.pi * stddev * (frequency + m)) ** 2 * clients)
            * np.sinc(frequency + m) ** clients
            for m in range(-20, 21)
        )
    return np.fft.fftshift(np.fft.ifft(total).real)


@pytest.mark.parametrize("clients", [2, 3, 8])
@pytest.mark.parametrize("stddev", [0.4, 0.6, 0.8, 1.2, LEAST_SHARE])
def test_the_sum_of_shares_is_smoothed_gaussian_noise(stddev, clients):
    one = rounded_gaussian(stddev)
    found = one
    for _ in range(clients - 1):
        found = np.convolve(found, one)
    expected = smoothed(stddev, clients)
    middle, reach = len(expected) // 2, min(len(found) // 2, 500)
    found = found[len(found) // 2 - reach : len(found) // 2 + reach + 1]
    distance = np.abs(found - expected[middle - reach : middle + reach + 1]).sum() / 2
    bound = float(clients * mpmath.exp(-((mpmath.pi * stddev) ** 2)))
    assert distance <= 2 * bound + 1e-13


def test_the_least_share_leaves_nothing_to_account_for():
    # over 10^12 coordinates and rounds the distance is far below any delta
    assert float(1e12 * mpmath.exp(-((mpmath.pi * LEAST_SHARE) ** 2))) < 1e-50


@pytest.mark.parametrize("size", [388, 286_596])
@pytest.mark.parametrize("cohort", [2, 36, 100, 1000])
@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("multiplier", [0.5, 8.5, 50.0])
def test_the_noise_of_the_least_clients_is_enough(size, cohort, dropout, multiplier):
    clip = 0.45
    made = DistributedSum.of(cohort, dropout, clip, multiplier * clip, size)
    assert made.min_clients == max(2, math.ceil(cohort * (1 - dropout) - 1e-9))
    # the noise of those who may tell their share does not count, and everybody knows its own
    counted = made.min_clients - max(1, cohort // 10)
    assert counted_clients(cohort, made.min_clients) == counted >= 1
    assert made.share_stddev * math.sqrt(counted) == pytest.approx(multiplier * clip)
    assert math.frexp(made.step)[0] == 0.5  # a power of two
    # no wrap: the largest sum and eight standard deviations of all noise stay within the integers
    noise = TAIL * made.share_stddev * math.sqrt(cohort)
    assert cohort * clip / made.step + noise / made.step + cohort <= HALF
    assert made.step * math.sqrt(size) * COARSEST <= clip
    assert made.share_stddev >= LEAST_SHARE * made.step


def test_a_sum_that_does_not_fit_is_rejected():
    with pytest.raises(UserError, match="does not fit into integers of 32 bits"):
        DistributedSum.of(100_000_000, 0.0, 1.0, 1.0, 286_596)
    with pytest.raises(UserError, match="the noise is too small for its integers"):
        DistributedSum.of(100, 0.0, 1.0, 1e-7, 388)


def test_cohorts_that_cannot_be_summed_are_rejected():
    with pytest.raises(UserError, match=r"at least 2 clients: raise cohort_fraction"):
        DistributedSum.of(1, 0.0, 1.0, 1.0, 388).check_cohort(secure=False)
    many_missing = DistributedSum.of(10, 0.45, 1.0, 1.0, 388)
    many_missing.check_cohort(secure=False)
    with pytest.raises(UserError, match=r"privacy.dropout: 4 of 10 clients may be missing"):
        many_missing.check_cohort(secure=True)
