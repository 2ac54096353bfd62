from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from attacks.audit import _highest, _lowest, audit_figures
from client import privacy
from conf.schema import AuditConfig, RuntimeConfig
from server.federation import Evidence
from server.gaussian import gaussian_epsilon, gaussian_mu
from server.plan import PrivacyConfig, PrivacyPlan
from server.run import run_canaries
from tests.examples import FEATURES, SHARED, protocol


def plan(epsilon: float, relation: str = "replace_one") -> PrivacyPlan:
    config = PrivacyConfig("local", epsilon=epsilon, clipping_norm=0.1, relation=relation)
    return PrivacyPlan(config, 1.0, 1, 1, SHARED)


def gaussian_evidence(mu: float, count: int, seed: int, spread: float = 1.0) -> Evidence:
    """Scores of an ideal mechanism whose plus and minus lie mu standard deviations apart."""
    rng = np.random.default_rng(seed)
    coins = rng.random(count) < 0.5
    return Evidence(np.where(coins, mu, -mu) / 2 + spread * rng.normal(size=count), coins)


@pytest.mark.parametrize("epsilon", [2.0, 8.0])
def test_bounds_hold_about_as_often_as_they_say_and_are_not_loose(epsilon):
    mu = gaussian_mu(epsilon, 1e-5)
    found = [
        audit_figures(gaussian_evidence(mu, 2000, seed), plan(epsilon), 1, 1.0, 0.95)
        for seed in range(150)
    ]
    for key in ("epsilon_gaussian_lower", "epsilon_clopper_pearson_lower"):
        exceeded = sum(f[key] > epsilon for f in found)
        assert exceeded <= 16  # binomial(150, 0.05): 17 or more has probability 0.001
    assert np.median([f["epsilon_gaussian_lower"] for f in found]) > 0.75 * epsilon
    assert np.median([f["epsilon_plug_in"] for f in found]) == pytest.approx(epsilon, rel=0.03)
    assert all(f["epsilon_upper"] == pytest.approx(epsilon) for f in found)
    assert not any(f["violated"] for f in found)


def test_noise_half_as_large_as_planned_is_caught():
    mu = gaussian_mu(2.0, 1e-5)
    found = audit_figures(gaussian_evidence(mu, 2000, 0, spread=0.5), plan(2.0), 1, 1.0, 0.99)
    assert found["violated"]
    assert found["epsilon_plug_in"] == pytest.approx(gaussian_epsilon(2 * mu, 1e-5), rel=0.1)


def test_add_remove_compares_with_absence():
    # the same scores are one sensitivity from zero, not two from each other
    mu = gaussian_mu(2.0, 1e-5)
    evidence = gaussian_evidence(2 * mu, 2000, 0)
    found = audit_figures(evidence, plan(2.0, "add_remove"), 1, 1.0, 0.95)
    assert found["epsilon_clopper_pearson_lower"] is None
    assert 1.5 < found["epsilon_gaussian_lower"] < 2.0 == pytest.approx(found["epsilon_upper"])


@pytest.mark.parametrize(("successes", "trials"), [(0, 50), (13, 50), (50, 50)])
def test_rates_are_bounded_as_by_scipy(successes, trials):
    interval = binomtest(successes, trials).proportion_ci(0.9, method="exact")
    assert _lowest(successes, trials, 0.05) == pytest.approx(interval.low)
    assert _highest(successes, trials, 0.05) == pytest.approx(interval.high)


def audit(magnitude: float, releases: int = 1, epsilon: float = 8.0, **changes):
    settings = AuditConfig("canary", 1500, releases, [magnitude])
    config = replace(plan(epsilon).config, **changes)
    study = protocol(privacy=config, releases=releases)
    (evidence,) = run_canaries(study, FEATURES, settings, RuntimeConfig("local"))
    return audit_figures(evidence, study.plan, releases, magnitude, 0.99)


@pytest.mark.parametrize("magnitude", [1.0, 3.0])
@pytest.mark.parametrize("releases", [1, 3])
def test_the_real_mechanism_stands_the_audit(magnitude, releases):
    found = audit(magnitude, releases)
    assert found["epsilon_upper"] == pytest.approx(8.0)
    assert 6.0 < found["epsilon_gaussian_lower"] < 8.0
    assert found["epsilon_clopper_pearson_lower"] < 8.0
    assert not found["violated"]


def test_the_real_mechanism_stands_the_audit_over_one_layer():
    study = protocol(privacy=plan(8.0).config)
    last = replace(study, plan=replace(study.plan, shared=SHARED[-2:]))
    (evidence,) = run_canaries(
        last, FEATURES, AuditConfig("canary", 1500, 1, [3.0]), RuntimeConfig("local")
    )
    found = audit_figures(evidence, last.plan, 1, 3.0, 0.99)
    assert 6.0 < found["epsilon_gaussian_lower"] < 8.0


def test_an_audit_catches_noise_that_is_too_small(monkeypatch):
    real = privacy.add_gaussian
    monkeypatch.setattr(privacy, "add_gaussian", lambda u, s, rng: real(u, s / 2, rng))
    assert audit(1.0)["violated"]


def test_an_audit_catches_a_clip_that_is_skipped(monkeypatch):
    monkeypatch.setattr(privacy, "clip_by_norm", lambda update, norm: update)
    assert not audit(1.0)["violated"]
    assert audit(3.0)["violated"]


def test_an_audit_catches_noise_that_repeats(monkeypatch):
    real = privacy.add_gaussian
    monkeypatch.setattr(
        privacy, "add_gaussian", lambda u, s, rng: real(u, s, np.random.default_rng(0))
    )
    assert audit(1.0)["violated"]
