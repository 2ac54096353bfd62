"""Empirical audit: what an adversary can prove about the noise that is really applied.

Canary clients send directions that are known to the audit through the real path. Telling what
they sent from its opposite, or from nothing, is a test between neighbouring data sets, so its
success bounds epsilon from below; a bound above the accountant's epsilon proves a fault in the
mechanism.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, norm

from server.composition import Releases
from server.federation import Evidence
from server.gaussian import gaussian_epsilon
from server.plan import PrivacyPlan

Floats64 = npt.NDArray[np.float64]

ALARM_CONFIDENCE = 0.9999
"""Of the bounds that make a run fail: a false alarm must be rare however often one audits."""


def audit_figures(
    evidence: Evidence, plan: PrivacyPlan, canaries: int, magnitude: float, confidence: float
) -> dict[str, Any]:
    """Set lower bounds on epsilon from the evidence beside the accountant's epsilon.

    Parameters
    ----------
    canaries : int
        How many clients of the audit there were.
    magnitude : float
        Norm of the canaries' updates over the clipping norm: above 1 the clip is tested too.
    confidence : float
        Of each lower bound, one-sided.

    Returns
    -------
    dict
        An entry of ``audit.checks`` in ``results.json``.
    """
    delta = plan.config.delta
    upper = plan.epsilon(_accounted(evidence, plan))
    gaussian, exact = lower_bounds(evidence, delta, confidence)
    certain = lower_bounds(evidence, delta, ALARM_CONFIDENCE)
    return {
        "canaries": canaries,
        "participation": evidence.participation,
        "releases": evidence.releases,
        "magnitude": magnitude,
        "confidence": confidence,
        "epsilon_upper": upper,
        "epsilon_plug_in": gaussian_epsilon(max(0.0, _effect_size(evidence)), delta),
        "epsilon_gaussian_lower": gaussian,
        "epsilon_clopper_pearson_lower": exact,
        "violated": max(bound for bound in certain if bound is not None) > upper,
    }


def _accounted(evidence: Evidence, plan: PrivacyPlan) -> Releases:
    if evidence.participation == "secret":
        return Releases(evidence.releases, plan.sampling_rate)
    return Releases(evidence.releases)


def lower_bounds(evidence: Evidence, delta: float, confidence: float) -> tuple[float, float | None]:
    """Return the Gaussian and the Clopper-Pearson lower bound on epsilon.

    The Gaussian one takes scores to be normal with one variance under both hypotheses, and the
    standardised difference of their means to be normal with variance ``1/n + 1/m + effect^2 /
    (2 (n + m))`` (Hedges, 1981). The other assumes nothing and exists where the hypotheses are
    neighbours.
    """
    n, m = len(evidence.present), len(evidence.absent)
    effect = _effect_size(evidence) * evidence.apart
    error = math.sqrt(1 / n + 1 / m + effect**2 / (2 * (n + m)))
    least = (effect - float(norm.ppf(confidence)) * error) / evidence.apart
    gaussian = gaussian_epsilon(max(0.0, least), delta)
    if evidence.apart > 1:
        return gaussian, None
    return gaussian, _clopper_pearson(evidence, delta, confidence)


def _effect_size(evidence: Evidence) -> float:
    """Return the difference of means over the standard deviation, a neighbouring step.

    The deviation is measured, not taken from the plan: noise that is smaller than planned
    shows as a larger effect.
    """
    present, absent = evidence.present, evidence.absent
    spread = math.sqrt(
        (present.var(ddof=1) * (len(present) - 1) + absent.var(ddof=1) * (len(absent) - 1))
        / (len(present) + len(absent) - 2)
    )
    return float((present.mean() - absent.mean()) / spread / evidence.apart)


def _clopper_pearson(evidence: Evidence, delta: float, confidence: float) -> float:
    """Lower bound on epsilon without assuming a distribution.

    The threshold is chosen on the first half of the scores and judged on the second
    (Jagielski, Ullman and Oprea, 2020), each rate at half of the error allowed.
    """
    (learn_in, judge_in), (learn_out, judge_out) = (
        (scores[: len(scores) // 2], scores[len(scores) // 2 :])
        for scores in (evidence.present, evidence.absent)
    )
    both = np.concatenate([learn_in, learn_out])
    thresholds = np.quantile(both, np.linspace(0.01, 0.99, 99))
    alpha = (1 - confidence) / 2
    bounds = [_bound_at(t, learn_in, learn_out, delta, alpha) for t in thresholds]
    best = thresholds[int(np.argmax(bounds))]
    return _bound_at(best, judge_in, judge_out, delta, alpha)


def _bound_at(
    threshold: float, present: Floats64, absent: Floats64, delta: float, alpha: float
) -> float:
    hits, alarms = int((present > threshold).sum()), int((absent > threshold).sum())
    heads, tails = len(present), len(absent)
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
