"""Direct tests of a mechanism: its noise must be normal, independent and of the planned size.

Each test gives a p-value, which holds for a correct mechanism. A mechanism fails if one p-value is
below the level of the whole audit divided by the number of tests (Bonferroni). So one in ten
thousand audits of a correct mechanism fails.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from fedser.common.arrays import Floats64
from fedser.server.rounds.audit_noise import Collected, Membership, NoiseSamples

FAMILY_LEVEL = 1e-4
"""Probability that the audit of a correct mechanism fails, over all tests together."""
SHAPE_SAMPLES = 20_000
"""Maximum number of samples in the test of shape."""
TAILS = (2.0, 3.0, 4.0)
LARGEST_NORM = 1.001
"""Largest allowed norm of a clipped update, in clipping norms; the excess over 1 is rounding."""


class DirectTest(NamedTuple):
    """One test: its name, the tested object, the statistic, and the p-value; None if not random."""

    name: str
    of: str
    statistic: float
    p_value: float | None


def run_direct_tests(found: Collected) -> list[dict[str, Any]]:
    """Return the entries of ``audit.tests`` in ``results.json``, failed ones first."""
    outcomes = [DirectTest("clip", name, norm, None) for name, norm in found.norms.items()]
    for noise in found.noises:
        outcomes += _noise_tests(noise)
    for membership in found.memberships:
        outcomes += _membership_tests(membership)
    if len(found.count_noise):
        of = "noise on the count of adaptive clipping"
        outcomes += [_variance(of, found.count_noise), _shape(of, found.count_noise)]
    tests = max(1, sum(outcome.p_value is not None for outcome in outcomes))
    entries = [
        {**outcome._asdict(), "failed": _failed(outcome, FAMILY_LEVEL / tests)}
        for outcome in outcomes
    ]
    return sorted(entries, key=lambda entry: not entry["failed"])


def _failed(outcome: DirectTest, level: float) -> bool:
    if outcome.p_value is None:
        return outcome.statistic > LARGEST_NORM
    return not outcome.p_value >= level  # NaN fails, too


def _noise_tests(noise: NoiseSamples) -> Iterator[DirectTest]:
    for name, samples in noise.tensors.items():
        of = f"{name} in {noise.of}"
        yield _variance(of, samples)
        yield _shape(of, samples)
        yield from (_tail(of, samples, far) for far in TAILS)
        yield _dependence("rounds alike", of, samples[:-1], samples[1:])
        if samples.shape[1] > 1:
            yield _dependence("clients alike", of, samples[:, :-1], samples[:, 1:])
        if samples.ndim == 4:  # a matrix
            yield _sums("rows alike", of, samples, axis=2)
            yield _sums("columns alike", of, samples, axis=3)
    releases = next(iter(noise.tensors.values())).shape[1]
    for client in range(releases if releases > 1 else 0):
        own = [samples[:, client].ravel() for samples in noise.tensors.values()]
        yield _variance(f"client {client} in {noise.of}", np.concatenate(own))


def _two_sided(below: float, above: float) -> float:
    return min(1.0, 2 * min(below, above))


def _variance(of: str, samples: Floats64) -> DirectTest:
    """Test the sum of squares against the chi-squared distribution."""
    total, count = float(np.square(samples).sum()), samples.size
    p_value = _two_sided(stats.chi2.cdf(total, count), stats.chi2.sf(total, count))
    return DirectTest("variance", of, total / count, p_value)


def _shape(of: str, samples: Floats64) -> DirectTest:
    """Test the distance of Kolmogorov and Smirnov to the normal distribution."""
    flat = samples.ravel()
    found = stats.kstest(flat[:: -(-len(flat) // SHAPE_SAMPLES)], "norm")
    return DirectTest("normality", of, float(found.statistic), float(found.pvalue))


def _tail(of: str, samples: Floats64, far: float) -> DirectTest:
    """Test the number of samples beyond `far` standard deviations; truncated noise has none."""
    beyond, rate = int((np.abs(samples) > far).sum()), 2 * stats.norm.sf(far)
    p_value = _two_sided(
        stats.binom.cdf(beyond, samples.size, rate), stats.binom.sf(beyond - 1, samples.size, rate)
    )
    return DirectTest(f"beyond {far:g} deviations", of, beyond / samples.size, p_value)


def _dependence(name: str, of: str, one: Floats64, other: Floats64) -> DirectTest:
    """Test Pearson's correlation; the p-value is exact for normal samples."""
    if one.size < 3 or not one.std() or not other.std():
        return DirectTest(name, of, 0.0, 1.0)  # the test of variance detects missing noise
    found = stats.pearsonr(one.ravel(), other.ravel())
    return DirectTest(name, of, float(found.statistic), float(found.pvalue))


def _sums(name: str, of: str, samples: Floats64, axis: int) -> DirectTest:
    """Test the variance of sums along an axis; it grows if rows or columns repeat."""
    total = samples.sum(axis=axis) / np.sqrt(samples.shape[axis])
    return DirectTest(name, *_variance(of, total)[1:])


def _membership_tests(found: Membership) -> Iterator[DirectTest]:
    """Test the rate, the spread of sizes, and the independence of draws at lags 1 to 3."""
    present, rate = found.present, found.rate
    rounds, count = present.shape

    def binomial(name: str, hits: int, trials: int, chance: float) -> DirectTest:
        below, above = (
            stats.binom.cdf(hits, trials, chance),
            stats.binom.sf(hits - 1, trials, chance),
        )
        return DirectTest(name, found.of, hits / max(1, trials), _two_sided(below, above))

    yield binomial("rate", int(present.sum()), present.size, rate)
    each = np.array([stats.binomtest(int(n), rounds, rate).pvalue for n in present.sum(axis=0)])
    yield DirectTest(
        "rate of each", found.of, float(each.min()), min(1.0, float(each.min()) * count)
    )
    if rate < 1:
        spread = np.square(present.sum(axis=1) - count * rate).sum() / (count * rate * (1 - rate))
        p_value = _two_sided(stats.chi2.cdf(spread, rounds), stats.chi2.sf(spread, rounds))
        yield DirectTest("spread of sizes", found.of, float(spread / rounds), float(p_value))
    for lag in (1, 2, 3):
        for start in (0, lag):  # pairs of rounds that share no round
            first = [r for r in range(start, rounds - lag, 2 * lag) for r in range(r, r + lag)]
            first = [r for r in first if r + lag < rounds]
            both = present[first] & present[[r + lag for r in first]]
            yield binomial(f"overlap at lag {lag}", int(both.sum()), both.size, rate * rate)
