"""Empirical audit: lower bounds on epsilon from the noise that is really applied.

Canary clients send known directions through the real path. The audit tests whether a canary sent
its direction or the opposite, or whether it sent its direction or nothing. This is a test between
neighbouring data sets, so its success gives a lower bound on epsilon. A bound above the
accountant's epsilon proves a fault in the mechanism.
"""

import math
from typing import Any

import numpy as np
from scipy.stats import beta, norm

from fedser.attacks.evaluation.direct_tests import run_direct_tests
from fedser.attacks.evaluation.one_run import one_run_bound
from fedser.client.privacy.gaussian import gaussian_epsilon
from fedser.common.arrays import Floats64, Ints
from fedser.conf.schema import AuditConfig
from fedser.server.federation.federation import CanaryScores
from fedser.server.privacy.composition import Releases
from fedser.server.privacy.plan import PrivacyPlan
from fedser.server.rounds.audit_batches import OneRun
from fedser.server.study.run import Audited

ALARM_CONFIDENCE = 0.9999
"""Confidence of the bounds that make a run fail. It is high, so that false alarms are rare."""


TESTED = (
    "the clip, with all mass of an update in each single parameter and in all, at three times the "
    "clipping norm, in a pass with next to no noise",
    "the noise of each parameter: size, normality, tails, and independence over rounds, clients, "
    "rows and columns, of canaries with 1 to 40 utterances and of real training",
)
TESTED_CENTRAL = (
    "cohorts: rate, spread of sizes, and independence over rounds",
    "the noise on the count of unclipped clients, if the clip is adaptive",
)
TESTED_PRIVATE = (
    "the noise on each parameter's gradient, of clients with 1 to 40 utterances",
    "batches: rate, spread of sizes, and independence over rounds and clients",
    "guesses of which canary utterances one training used (one-run audit)",
)
NOT_TESTED = (
    "the network, files, logs and everybody who can read them",
    "timing, memory and messages that fail to arrive",
    "the secrecy and quality of the operating system's entropy",
    "the clip of each utterance's gradient, but for its effect on the guesses (dp_sgd)",
    "attributes of speakers that are inferred within the guarantee",
)


def evaluate_audit(audited: Audited, plan: PrivacyPlan, audit: AuditConfig) -> dict[str, Any]:
    """Return ``audit`` of ``results.json``: bounds on epsilon, direct tests, and their scope."""
    checks = [
        audit_figures(found, plan, audit.canaries, magnitude, audit.confidence)
        for magnitude, kinds in zip(audit.magnitudes, audited.evidence, strict=True)
        for found in kinds
    ]
    if audited.one_run:
        checks.append(_one_run_figures(audited.one_run, plan, audit.confidence))
    tests = run_direct_tests(audited.collected)
    tested = TESTED_PRIVATE if plan.config.spec.noise_at == "batches" else TESTED
    failed = [*(check["violated"] for check in checks), *(test["failed"] for test in tests)]
    return {
        "checks": checks,
        "tests": tests,
        "tested": [*tested, *(TESTED_CENTRAL if plan.central else ())],
        "not_tested": list(NOT_TESTED),
        "violated": any(failed),
    }


def _one_run_figures(found: OneRun, plan: PrivacyPlan, confidence: float) -> dict[str, Any]:
    delta, upper = plan.config.delta, plan.epsilon(found.releases)
    return {
        "canaries": len(found.scores),
        "participation": "secret",
        "releases": round(found.releases.count),
        "magnitude": 1.0,
        "confidence": confidence,
        "epsilon_upper": upper,
        "epsilon_plug_in": None,
        "epsilon_gaussian_lower": None,
        "epsilon_clopper_pearson_lower": one_run_bound(found, delta, confidence),
        "violated": one_run_bound(found, delta, ALARM_CONFIDENCE) > upper,
    }


def audit_figures(
    evidence: CanaryScores, plan: PrivacyPlan, canaries: int, magnitude: float, confidence: float
) -> dict[str, Any]:
    """Return lower bounds on epsilon from the evidence, and the accountant's epsilon.

    Parameters
    ----------
    canaries : int
        Number of canary clients.
    magnitude : float
        Norm of the canaries' updates over the clipping norm. Above 1 it tests the clip, too.
    confidence : float
        One-sided confidence of each lower bound.

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
        "epsilon_plug_in": _finite(gaussian_epsilon(max(0.0, _effect_size(evidence)), delta)),
        "epsilon_gaussian_lower": _finite(gaussian),
        "epsilon_clopper_pearson_lower": exact,
        "violated": max(bound for bound in certain if bound is not None) > upper,
    }


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None


def _accounted(evidence: CanaryScores, plan: PrivacyPlan) -> Releases:
    if evidence.participation == "secret":
        return Releases(evidence.releases, plan.turn_rate)
    return Releases(evidence.releases)


def lower_bounds(
    evidence: CanaryScores, delta: float, confidence: float
) -> tuple[float, float | None]:
    """Return the Gaussian and the Clopper-Pearson lower bound on epsilon.

    The Gaussian bound assumes that scores are normal with the same variance under both hypotheses.
    The standardised difference of their means is then normal with variance ``1/n + 1/m + effect^2 /
    (2 (n + m))`` (Hedges, 1981). The Clopper-Pearson bound assumes nothing. It is None if the
    hypotheses are not neighbours.
    """
    n, m = len(evidence.present), len(evidence.absent)
    effect = _effect_size(evidence) * evidence.apart
    if math.isinf(effect):  # all scores share their noise, or there is none
        least = math.inf
    else:
        error = math.sqrt(1 / n + 1 / m + effect**2 / (2 * (n + m)))
        least = (effect - float(norm.ppf(confidence)) * error) / evidence.apart
    gaussian = gaussian_epsilon(max(0.0, least), delta)
    if evidence.apart > 1:
        return gaussian, None
    return gaussian, _clopper_pearson(evidence, delta, confidence)


def _effect_size(evidence: CanaryScores) -> float:
    """Return the difference of means over the standard deviation, per neighbouring step.

    The standard deviation is measured, not taken from the plan. So smaller noise than planned gives
    a larger effect.
    """
    present, absent = evidence.present, evidence.absent
    spread = math.sqrt(
        (present.var(ddof=1) * (len(present) - 1) + absent.var(ddof=1) * (len(absent) - 1))
        / (len(present) + len(absent) - 2)
    )
    moved = float(present.mean() - absent.mean())
    return moved / spread / evidence.apart if spread else math.copysign(math.inf, moved)


def _clopper_pearson(evidence: CanaryScores, delta: float, confidence: float) -> float:
    """Return a lower bound on epsilon that assumes no distribution.

    The threshold is chosen on the first half of the scores and tested on the second half
    (Jagielski, Ullman and Oprea, 2020). Each of the two rates may have half of the allowed error.
    """
    (present, test_present), (absent, test_absent) = (
        (scores[: len(scores) // 2], scores[len(scores) // 2 :])
        for scores in (evidence.present, evidence.absent)
    )
    thresholds = np.quantile(np.concatenate([present, absent]), np.linspace(0.01, 0.99, 99))
    alpha = (1 - confidence) / 2
    best = thresholds[[int(np.argmax(_bounds_at(thresholds, present, absent, delta, alpha)))]]
    return float(_bounds_at(best, test_present, test_absent, delta, alpha)[0])


def _bounds_at(
    thresholds: Floats64, present: Floats64, absent: Floats64, delta: float, alpha: float
) -> Floats64:
    """Return the bound at each of t thresholds, shape (t,)."""
    hits, alarms = ((scores > thresholds[:, None]).sum(axis=1) for scores in (present, absent))
    n, m = len(present), len(absent)
    # The reversed test: a score below the threshold means that the canary was absent.
    hit = np.stack([_lowest(hits, n, alpha), _lowest(m - alarms, m, alpha)])
    miss = np.stack([_highest(alarms, m, alpha), _highest(n - hits, n, alpha)])
    with np.errstate(divide="ignore", invalid="ignore"):
        bounds = np.where(hit > delta, np.log(hit - delta) - np.log(miss), 0.0)
    found: Floats64 = bounds.max(axis=0, initial=0.0)
    return found


def _lowest(successes: Ints, trials: int, alpha: float) -> Floats64:
    """Return the lower end of the interval of a rate, for each count of successes."""
    some = np.maximum(successes, 1)
    found: Floats64 = np.where(successes > 0, beta.ppf(alpha, some, trials - some + 1), 0.0)
    return found


def _highest(successes: Ints, trials: int, alpha: float) -> Floats64:
    """Return the upper end of the interval of a rate, for each count of successes."""
    some = np.minimum(successes, trials - 1)
    found: Floats64 = np.where(successes < trials, beta.isf(alpha, some + 1, trials - some), 1.0)
    return found
