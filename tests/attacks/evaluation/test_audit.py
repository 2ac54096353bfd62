"""The audit: bounds on epsilon for ideal, real and broken mechanisms."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from fedser.attacks.evaluation.audit import _highest, _lowest, audit_figures
from fedser.client.privacy import distributed, rounded_gaussian
from fedser.client.privacy import local as privacy
from fedser.client.privacy.gaussian import gaussian_epsilon, gaussian_mu
from fedser.common.seeds import Reproducible
from fedser.conf.schema import AuditConfig, RuntimeConfig
from fedser.server.federation.cohort import Sampler
from fedser.server.federation.federation import CanaryScores
from fedser.server.privacy.composition import Releases, composed_epsilon
from fedser.server.privacy.plan import PrivacyPlan
from fedser.server.rounds import audit_noise
from fedser.server.strategy import aggregate, sum_noise
from fedser.server.strategy import averaging as strategy
from fedser.server.study.run import run_canaries
from tests.examples import (
    ADAPTIVE,
    CENTRAL,
    DISTRIBUTED,
    FEATURES,
    LAYERED,
    LOCAL,
    MATRIX,
    SHARED,
    protocol,
)

SUM = replace(CENTRAL, vantage="sum", relation="zero_out")
REPLACE = replace(SUM, relation="replace_one")
RATE = 0.4


def plan(config=LOCAL, epsilon: float = 8.0, **changes) -> PrivacyPlan:
    config = replace(config, epsilon=epsilon, **changes)
    return PrivacyPlan(config, RATE, 1, 20, (Releases(1),), SHARED)


def gaussian_evidence(
    mu: float, count: int, seed: int, spread: float = 1.0, apart: float = 1.0
) -> CanaryScores:
    """Return scores of an ideal mechanism; a neighbouring step is mu standard deviations."""
    rng = np.random.default_rng(seed)
    present, absent = spread * rng.normal(size=(2, count // 2))
    return CanaryScores("known", 1, present + mu * apart, absent, apart)


@pytest.mark.parametrize(("epsilon", "apart"), [(2.0, 1.0), (8.0, 1.0), (8.0, 0.5), (2.0, 2.0)])
def test_bounds_have_the_stated_confidence_and_are_not_loose(epsilon, apart):
    mu = gaussian_mu(epsilon, 1e-5)
    found = [
        audit_figures(
            gaussian_evidence(mu, 2000, seed, apart=apart), plan(epsilon=epsilon), 1, 1.0, 0.95
        )
        for seed in range(60)
    ]
    for key in ("epsilon_gaussian_lower", "epsilon_clopper_pearson_lower"):
        if key.startswith("epsilon_clopper") and apart > 1:
            assert all(f[key] is None for f in found)  # the hypotheses are not neighbours
            continue
        exceeded = sum(f[key] > epsilon for f in found)
        assert exceeded <= 9  # binomial(60, 0.05): 10 or more has probability 0.0007
    assert np.median([f["epsilon_gaussian_lower"] for f in found]) > 0.7 * epsilon
    assert np.median([f["epsilon_plug_in"] for f in found]) == pytest.approx(epsilon, rel=0.05)
    assert all(f["epsilon_upper"] == pytest.approx(epsilon) for f in found)
    assert not any(f["violated"] for f in found)


def test_the_distribution_free_bound_is_near_randomised_response():
    # randomised response that answers truly with probability 3/4: e^epsilon = 3
    rng = np.random.default_rng(0)
    truth, lie = rng.random((2, 20_000)) < [[0.75], [0.25]]
    evidence = CanaryScores("known", 1, 1.0 * truth, 1.0 * lie, 1.0)
    found = audit_figures(evidence, plan(), 1, 1.0, 0.99)
    assert np.log(3) * 0.93 < found["epsilon_clopper_pearson_lower"] < np.log(3)


def test_noise_of_half_the_planned_size_is_detected():
    mu = gaussian_mu(2.0, 1e-5)
    evidence = gaussian_evidence(mu, 2000, 0, spread=0.5)
    found = audit_figures(evidence, plan(epsilon=2.0), 1, 1.0, 0.99)
    assert found["violated"]
    assert found["epsilon_plug_in"] == pytest.approx(gaussian_epsilon(2 * mu, 1e-5), rel=0.1)


def test_the_alarm_is_more_confident_than_the_bounds():
    mu = gaussian_mu(2.0, 1e-5)
    found = [
        audit_figures(gaussian_evidence(mu, 400, seed), plan(epsilon=2.0), 1, 1.0, 0.6)
        for seed in range(40)
    ]
    assert 4 < sum(f["epsilon_gaussian_lower"] > 2.0 for f in found) < 30
    assert not any(f["violated"] for f in found)


@pytest.mark.parametrize(
    ("participation", "config", "epsilon"),
    [
        ("known", LOCAL, gaussian_epsilon(np.sqrt(3) / 2, 1e-5)),
        ("known", CENTRAL, gaussian_epsilon(np.sqrt(3) / 2, 1e-5)),
        ("secret", CENTRAL, composed_epsilon(Releases(3, RATE), 2.0, 1e-5, "pld")),
        (
            "secret",
            replace(CENTRAL, accountant="rdp"),
            composed_epsilon(Releases(3, RATE), 2.0, 1e-5, "rdp"),
        ),
    ],
)
def test_bounds_are_compared_with_the_accountants_epsilon(participation, config, epsilon):
    scores = np.random.default_rng(0).normal(size=(2, 200))
    evidence = CanaryScores(participation, 3, *scores, 1.0)
    fixed = plan(replace(config, noise_multiplier=2.0), epsilon=None)
    found = audit_figures(evidence, fixed, 123, 3.0, 0.9)
    assert found["epsilon_upper"] == pytest.approx(epsilon, rel=1e-6)
    assert {key: found[key] for key in ("participation", "releases", "canaries")} == {
        "participation": participation,
        "releases": 3,
        "canaries": 123,
    }
    assert (found["magnitude"], found["confidence"]) == (3.0, 0.9)


@pytest.mark.parametrize(("successes", "trials"), [(0, 50), (13, 50), (50, 50)])
def test_bounds_on_rates_agree_with_scipy(successes, trials):
    interval = binomtest(successes, trials).proportion_ci(0.9, method="exact")
    assert _lowest(np.array(successes), trials, 0.05) == pytest.approx(interval.low)
    assert _highest(np.array(successes), trials, 0.05) == pytest.approx(interval.high)


@pytest.fixture
def unsampled(monkeypatch):
    """Collect no samples for the direct tests, which are not run here."""
    monkeypatch.setattr("fedser.server.study.run.collect", lambda path: None)


def audit(
    config, magnitude: float, releases: int = 2, canaries: int = 300, shared=SHARED, rate=RATE
):
    """Audit noise that is calibrated to an epsilon of 8 for so many releases."""
    rounds = round(releases / rate)
    of = {"outsider": Releases(rounds, rate), "sum": Releases(1), "attributed": Releases(releases)}
    if config.spec.correlated:  # all turns of a canary count together
        of["sum"] = Releases(releases)
    study = protocol(rounds, rate, privacy=config, exposures=(of[config.vantage],), num_clients=20)
    study = replace(study, plan=replace(study.plan, shared=shared))
    settings = AuditConfig("canary", canaries, releases, [magnitude])
    ((*kinds,),) = run_canaries(study, FEATURES, settings, RuntimeConfig("local")).evidence
    found = [audit_figures(kind, study.plan, canaries, magnitude, 0.99) for kind in kinds]
    return {figures["participation"]: figures for figures in found}


MECHANISMS = {
    "local": LOCAL,
    "local zero": replace(LOCAL, relation="zero_out"),
    "layered": LAYERED,
    "outsider": CENTRAL,
    "sum": SUM,
    "sum replace": REPLACE,
    "adaptive": ADAPTIVE,
    "adaptive sum": replace(ADAPTIVE, vantage="sum", relation="zero_out"),
    "distributed": DISTRIBUTED,
    "distributed replace": replace(DISTRIBUTED, relation="replace_one"),
}
all_mechanisms = pytest.mark.parametrize("config", MECHANISMS.values(), ids=MECHANISMS)


@pytest.mark.parametrize("magnitude", [1.0, 3.0])
@all_mechanisms
def test_the_real_mechanism_passes_with_a_bound_near_epsilon(
    request, monkeypatch, config, magnitude
):
    if magnitude > 1:  # the samples of the direct tests do not depend on it
        request.getfixturevalue("unsampled")
    monkeypatch.setattr(audit_noise, "SAMPLES", 1)  # they are only collected here
    found = audit(config, magnitude, canaries=700)
    known = found["known"]
    if config.vantage != "outsider":
        assert known["epsilon_upper"] == pytest.approx(8.0)
    assert 0.6 * known["epsilon_upper"] < known["epsilon_gaussian_lower"] < known["epsilon_upper"]
    assert set(found) == ({"known", "secret"} if config.vantage == "outsider" else {"known"})
    for figures in found.values():
        assert not figures["violated"]
        distribution_free = figures["epsilon_clopper_pearson_lower"]
        if config is MECHANISMS["local zero"]:
            assert distribution_free is None
        else:
            assert 0 < distribution_free < figures["epsilon_upper"]
    if "secret" in found:
        assert found["secret"]["epsilon_upper"] == pytest.approx(8.0, rel=1e-5)
        assert 0.3 * 8 < found["secret"]["epsilon_gaussian_lower"] < 8


@pytest.mark.parametrize("config", [LOCAL, SUM])
def test_the_real_mechanism_passes_the_audit_of_one_layer(unsampled, config):
    last = {name: size for name, size in SHARED.items() if name.startswith("dense.2")}
    found = audit(config, 3.0, shared=last)["known"]
    assert 0.6 * 8 < found["epsilon_gaussian_lower"] < 8 and not found["violated"]


@all_mechanisms
def test_an_audit_detects_noise_that_is_too_small(unsampled, monkeypatch, config):
    real = rounded_gaussian.gaussian_integers
    for module in (rounded_gaussian, aggregate, sum_noise, distributed):
        monkeypatch.setattr(
            module, "gaussian_integers", lambda count, stddev, noise: real(count, stddev / 2, noise)
        )
    assert audit(config, 1.0)["known"]["violated"]


@all_mechanisms
def test_an_audit_detects_a_skipped_clip(unsampled, monkeypatch, config):
    for module in (privacy, distributed):
        monkeypatch.setattr(module, "clip_factor", lambda update, norm: 1.0)
    monkeypatch.setattr(aggregate.DistributedMean, "_check", lambda *_: None)  # it would end it
    monkeypatch.setattr(
        strategy, "update_norms", lambda arrays: np.zeros(len(arrays["dense.0.bias"]))
    )
    assert audit(config, 3.0)["known"]["violated"]


def test_canaries_at_the_clipping_norm_cannot_detect_this(unsampled, monkeypatch):
    monkeypatch.setattr(privacy, "clip_factor", lambda update, norm: 1.0)
    assert not audit(LOCAL, 1.0)["known"]["violated"]


@pytest.mark.parametrize("config", [LOCAL, LAYERED])
def test_an_audit_detects_noise_that_all_clients_share(unsampled, monkeypatch, config):
    real = privacy.add_noise
    monkeypatch.setattr(
        privacy, "add_noise", lambda *given: real(*given[:-1], Reproducible(0, given[0].shape[0]))
    )
    assert audit(config, 1.0)["known"]["violated"]


def test_an_audit_detects_cohorts_that_are_not_sampled(unsampled, monkeypatch):
    monkeypatch.setattr(
        Sampler, "__call__", lambda self, server_round: list(range(self.num_clients))
    )
    found = audit(CENTRAL, 1.0, releases=6)
    assert found["secret"]["violated"] and not found["known"]["violated"]


matrix_relations = pytest.mark.parametrize("relation", ["zero_out", "replace_one"])


def audit_matrix(relation="zero_out", magnitude=1.0, reproducible=True):
    """Audit four groups that take turns, three turns each."""
    config = replace(MATRIX, relation=relation, reproducible_noise=reproducible)
    return audit(config, magnitude, releases=3, canaries=800, rate=0.25)["known"]


@pytest.mark.parametrize("magnitude", [1.0, 3.0])
@matrix_relations
def test_correlated_noise_passes_with_a_bound_near_epsilon(unsampled, relation, magnitude):
    found = audit_matrix(relation, magnitude)
    assert (found["releases"], found["epsilon_upper"]) == (3, pytest.approx(8.0))
    assert 0.75 * 8 < found["epsilon_gaussian_lower"] < 8 and not found["violated"]


def test_turns_with_secret_cohorts_pass_the_audit(unsampled):
    config = replace(MATRIX, vantage="outsider", relation="add_remove", bands=2)
    found = audit(config, 1.0, releases=2, canaries=1000, rate=0.25)
    assert set(found) == {"known", "secret"}
    assert not any(figures["violated"] for figures in found.values())
    # two turns with probability one half each give four rounds of two groups
    assert found["secret"]["releases"] == 4
    assert 0.3 < found["secret"]["epsilon_gaussian_lower"] / found["secret"]["epsilon_upper"] < 1


def test_an_audit_detects_noise_that_is_drawn_again(unsampled, monkeypatch):
    real = aggregate.NoisedMean.__call__

    def twice(self, server_round, received, model):
        found = [
            real(mean, server_round, received, model)
            for mean in (self, self.__dict__.setdefault("second", copy.deepcopy(self)))
        ]
        both = {n: (found[0].mean[n] + found[1].mean[n]) / 2 for n in found[0].mean}
        return replace(found[0], mean=both)

    monkeypatch.setattr(aggregate.NoisedMean, "__call__", twice)
    assert audit_matrix(reproducible=False)["violated"]  # a seed would draw the same again


def test_an_audit_detects_a_client_in_two_groups(unsampled, monkeypatch):
    real = Sampler.__call__

    def of_two_groups(self, server_round):
        before = real(self, server_round - 1) if server_round > 1 else []
        return sorted({*real(self, server_round), *before})

    monkeypatch.setattr(Sampler, "__call__", of_two_groups)
    assert audit_matrix()["violated"]


def test_an_audit_detects_a_skipped_clip_under_turns(unsampled, monkeypatch):
    monkeypatch.setattr(
        strategy, "update_norms", lambda arrays: np.zeros(len(arrays["dense.0.bias"]))
    )
    assert audit_matrix(magnitude=3.0)["violated"]
