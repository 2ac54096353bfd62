"""An accountant of the tests' own: numerical composition of privacy losses by Fourier transform.

It shares no code with the product and none with dp-accounting. Losses are discretised on a grid;
the mean of the epsilon with losses rounded down and the epsilon with losses rounded up is
returned, and the two must agree.
"""

import math
from functools import lru_cache

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.optimize import brentq
from scipy.stats import binom, norm


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Epsilon of Gaussian differential privacy (Balle and Wang, 2018, theorem 8)."""

    def excess(epsilon: float) -> float:
        second = epsilon + norm.logcdf(-epsilon / mu - mu / 2)
        return float(norm.cdf(mu / 2 - epsilon / mu) - math.exp(second)) - delta

    return float(brentq(excess, 0, mu * mu / 2 + 12 * mu + 1, xtol=1e-12)) if excess(0) > 0 else 0.0


@lru_cache(maxsize=8)
def log_densities(rate, clients, noise):
    """Log densities of one sampled release, on a grid: with the unit, and without it.

    Without the unit the release is N(0, noise^2); with it, a mixture over how many of its clients
    were drawn.
    """
    held = np.arange(clients + 1)
    weights = binom.pmf(held, clients, rate)
    x = np.linspace(-14 * noise, clients + 14 * noise, 200_001)
    mixture = np.array([norm.logpdf(x, j, noise) for j in held]) + np.log(weights)[:, None]
    top = mixture.max(axis=0)
    log_with = top + np.log(np.exp(mixture - top).sum(axis=0))
    return log_with, norm.logpdf(x, 0, noise)


def losses(rate, clients, noise, step, add, up):
    """Distribution of the privacy loss of one sampled release, on multiples of `step`.

    Returns the first multiple and the probabilities.
    """
    log_with, log_without = log_densities(rate, clients, noise)
    upper, lower = (log_without, log_with) if add else (log_with, log_without)
    mass = np.exp(upper)
    mass /= mass.sum()
    loss = (upper - lower) / step
    place = (np.ceil(loss) if up else np.floor(loss)).astype(int)
    first = place.min()
    return first, np.bincount(place - first, weights=mass)


def convolved(one, other):
    length = len(one[1]) + len(other[1]) - 1
    size = next_fast_len(length, real=True)
    transformed = rfft(one[1], size)
    transformed = transformed * (transformed if other is one else rfft(other[1], size))
    found = np.maximum(irfft(transformed, size)[:length], 0)
    first = one[0] + other[0]
    kept = np.flatnonzero(np.cumsum(found) > 1e-15)[0]
    end = len(found) - np.flatnonzero(np.cumsum(found[::-1]) > 1e-15)[0]
    return first + kept, found[kept:end]


def power(one, count):
    found = None
    while count:
        if count & 1:
            found = one if found is None else convolved(found, one)
        one, count = convolved(one, one) if count > 1 else one, count >> 1
    return found


def epsilon_of(first, mass, step, delta):
    grid = step * (first + np.arange(len(mass)))

    def excess(epsilon):
        above = grid > epsilon
        return float((mass[above] * -np.expm1(epsilon - grid[above])).sum()) - delta

    return float(brentq(excess, 0, grid[-1] + 1, xtol=1e-9)) if excess(0) > 0 else 0.0


def epsilon(groups, delta) -> float:
    """Epsilon of releases that compose, add/remove.

    Parameters
    ----------
    groups : list of (rate, clients, count, noise_multiplier)
    """
    if all(rate == 1 for rate, *_ in groups):
        squared = sum(count * (clients / noise) ** 2 for _, clients, count, noise in groups)
        return gaussian_epsilon(math.sqrt(squared), delta)
    total = sum(count for _, _, count, _ in groups)
    step = 6.4e-3 * max(r * c / z for r, c, _, z in groups) / max(1, total / 200)
    low, high = bounds(groups, delta, step)
    if high - low > 0.002 * high:  # the difference falls with the step
        low, high = bounds(groups, delta, step * 0.0015 * high / (high - low))
    assert high - low < 0.002 * high + 1e-6, (low, high)
    return (low + high) / 2


def bounds(groups, delta, step):
    """Epsilon with losses rounded down, and with losses rounded up, to multiples of `step`."""
    found = []
    for up in (False, True):
        worst = 0.0
        for add in (False, True):
            composed = None
            for rate, clients, count, noise in groups:
                one = power(losses(rate, clients, noise, step, add, up), count)
                composed = one if composed is None else convolved(composed, one)
            worst = max(worst, epsilon_of(*composed, step, delta))
        found.append(worst)
    return found
