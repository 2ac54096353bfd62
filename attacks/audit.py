"""Empirical audit: what an adversary can prove about the noise that is really applied.

Canary clients send plus or minus one fixed direction, by the toss of a coin, through the real
path. Guessing the coins is a test between neighbouring data sets, so its success bounds
epsilon from below; a bound above the accountant's epsilon proves a fault in the mechanism.
"""

import math
from typing import Any

import numpy as np
from scipy.stats import beta, norm

from server.federation import Evidence
from server.gaussian import gaussian_epsilon
from server.plan import PrivacyConfig, PrivacyPlan

ALARM_CONFIDENCE = 0.9999
"""Of the bounds that make a run fail: a false alarm must be rare however often one audits."""


def audit_figures(
    evidence: Evidence, plan: PrivacyPlan, releases: int, magnitude: float, confidence: float
) -> dict[str, Any]:
    """Set lower bounds on epsilon from the evidence beside the accountant's epsilon.

    Parameters
    ----------
    releases : int
        Releases of each canary.
    magnitude : float
        Norm of the canaries' updates over the clipping norm: above 1 the clip is tested too.
    confidence : float
        Of each lower bound, one-sided.

    Returns
    -------
    dict
        An entry of ``audit.checks`` in ``results.json``.
    """
    assert plan.noise_multiplier is not None  # only such plans are audited
    upper = gaussian_epsilon(math.sqrt(releases) / plan.noise_multiplier, plan.config.delta)
    gaussian, exact = lower_bounds(evidence, plan.config, confidence)
    certain = lower_bounds(evidence, plan.config, ALARM_CONFIDENCE)
    return {
        "canaries": len(evidence.coins),
        "releases": releases,
        "magnitude": magnitude,
        "confidence": confidence,
        "epsilon_upper": upper,
        "epsilon_plug_in": _gaussian_bound(_effect_size(evidence), plan.config),
        "epsilon_gaussian_lower": gaussian,
        "epsilon_clopper_pearson_lower": exact,
        "violated": max(bound for bound in certain if bound is not None) > upper,
    }


def lower_bounds(
    evidence: Evidence, config: PrivacyConfig, confidence: float
) -> tuple[float, float | None]:
    """Return the Gaussian and the Clopper-Pearson lower bound on epsilon.

    The Gaussian one takes scores to be normal about plus or minus one mean, with the variance
    of a standardised mean, ``(1 + effect^2 / 2) / n`` (Hedges, 1981). The other assumes nothing
    and exists for replace-one alone, which is what telling plus from minus tests.
    """
    effect = _effect_size(evidence)
    error = math.sqrt((1 + effect**2 / 2) / len(evidence.coins))
    gaussian = _gaussian_bound(effect - float(norm.ppf(confidence)) * error, config)
    if config.relation == "add_remove":
        return gaussian, None
    return gaussian, _clopper_pearson(evidence, config.delta, confidence)


def _gaussian_bound(effect: float, config: PrivacyConfig) -> float:
    # Plus and minus lie two clips apart, a client and its absence one.
    steps = 2 if config.relation == "replace_one" else 1
    return gaussian_epsilon(max(0.0, steps * effect), config.delta)


def _effect_size(evidence: Evidence) -> float:
    """Return mean over standard deviation of the scores, signed by their coins.

    The deviation is measured, not taken from the plan: noise that is smaller than planned
    shows as a larger effect.
    """
    signed = np.where(evidence.coins, evidence.scores, -evidence.scores)
    return float(signed.mean() / signed.std(ddof=1))


def _clopper_pearson(evidence: Evidence, delta: float, confidence: float) -> float:
    """Lower bound on epsilon without assuming a distribution.

    The threshold is chosen on the first half of the canaries and judged on the second
    (Jagielski, Ullman and Oprea, 2020), each rate at half of the error allowed.
    """
    half = len(evidence.coins) // 2
    learn, judge = slice(0, half), slice(half, None)
    thresholds = np.quantile(evidence.scores[learn], np.linspace(0.01, 0.99, 99))
    alpha = (1 - confidence) / 2
    bounds = [_bound_at(evidence, t, learn, delta, alpha) for t in thresholds]
    return _bound_at(evidence, thresholds[int(np.argmax(bounds))], judge, delta, alpha)


def _bound_at(
    evidence: Evidence, threshold: float, part: slice, delta: float, alpha: float
) -> float:
    above, coins = evidence.scores[part] > threshold, evidence.coins[part]
    heads, tails = int(coins.sum()), int((~coins).sum())
    hits, alarms = int((above & coins).sum()), int((above & ~coins).sum())
    both = [
        (_lowest(hits, heads, alpha), _highest(alarms, tails, alpha)),
        # the same test the other way round: below the threshold means tails
        (_lowest(tails - alarms, tails, alpha), _highest(heads - hits, heads, alpha)),
    ]
    return max(0.0, *(math.log(hit - delta) - math.log(miss) for hit, miss in both if hit > delta))


def _lowest(successes: int, trials: int, alpha: float) -> float:
    return float(beta.ppf(alpha, successes, trials - successes + 1)) if successes else 0.0


def _highest(successes: int, trials: int, alpha: float) -> float:
    return float(beta.isf(alpha, successes + 1, trials - successes)) if successes < trials else 1.0
