import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, kstest, norm

from fedser.client.training.canary import part_of
from fedser.common.arrays import unflatten
from fedser.conf.schema import AuditConfig, RuntimeConfig
from fedser.server.federation.cohort import Sampler
from fedser.server.rounds.canaries import _log_likelihood_ratio
from fedser.server.study.run import run_canaries
from tests.examples import ADAPTIVE, CENTRAL, FEATURES, LAYERED, LOCAL, SHARED, protocol

SUM = replace(CENTRAL, vantage="sum", relation="zero_out")
LAST = {name: size for name, size in SHARED.items() if name.startswith("dense.2")}


@pytest.fixture(autouse=True)
def unsampled(monkeypatch):
    """Collect no samples for the direct tests: only the scores of canaries are read here."""
    monkeypatch.setattr("fedser.server.study.run.collect", lambda path: None)


def fixed(config, noise_multiplier=1.5, **changes):
    return replace(config, epsilon=None, noise_multiplier=noise_multiplier, **changes)


def scores_of(config, canaries=600, releases=1, magnitude=1.0, shared=SHARED, seed=0):
    study = protocol(privacy=config, num_clients=20, seed=seed)
    study = replace(study, plan=replace(study.plan, shared=shared))
    settings = AuditConfig("canary", canaries, releases, [magnitude])
    (found,) = run_canaries(study, FEATURES, settings, RuntimeConfig("local")).evidence
    return found


def are_normal(scores, mean, stddev):
    return kstest((scores - mean) / stddev, "norm").pvalue > 1e-4


@pytest.mark.parametrize(("releases", "magnitude"), [(1, 0.5), (1, 3.0), (4, 1.0)])
@pytest.mark.parametrize("config", [LOCAL, LAYERED])
@pytest.mark.parametrize("relation", ["replace_one", "zero_out"])
def test_local_scores_follow_the_likelihood_ratio_test(config, relation, releases, magnitude):
    (found,) = scores_of(fixed(config, relation=relation), 600, releases, magnitude)
    assert (found.participation, found.releases) == ("known", releases)
    assert len(found.present) == len(found.absent) == 600
    steps = 2 if relation == "replace_one" else 1
    assert found.apart == 2 / steps
    # layers or not, a clip lies 1 / (steps z) standard deviations from nothing, at one release
    mu = math.sqrt(releases) / (steps * 1.5)
    assert are_normal(found.present, min(1, magnitude) * mu**2, mu)
    assert are_normal(found.absent, -min(1, magnitude) * mu**2, mu)


@pytest.mark.parametrize("magnitude", [0.5, 3.0])
@pytest.mark.parametrize(
    ("config", "steps"), [(SUM, 1), (CENTRAL, 1), (replace(SUM, relation="replace_one"), 2)]
)
def test_known_central_scores_follow_their_normal_law(config, steps, magnitude):
    found = scores_of(fixed(config), 400, 2, magnitude)[0]
    assert (found.participation, found.releases, found.apart) == ("known", 1, 1 / steps)
    # two releases at a rate of 0.4 are five rounds
    low, high = binom.ppf([0.0001, 0.9999], 400 * 5, 0.4)
    assert low <= len(found.present) == len(found.absent) <= high
    assert are_normal(found.present, min(1, magnitude), 1.5 * steps)
    assert are_normal(found.absent, 0, 1.5 * steps)


def test_secret_scores_cover_every_canary_over_all_rounds():
    known, secret = scores_of(fixed(CENTRAL), 400, 4)
    assert (secret.participation, secret.releases, secret.apart) == ("secret", 10, 1)
    assert len(secret.present) == len(secret.absent) == 400
    rng = np.random.default_rng(0)
    noise = 1.5 * rng.normal(size=(2, 10, 20_000))
    drawn = rng.random((10, 20_000)) < 0.4
    ideal = [_log_likelihood_ratio(s, 0.4, 1.5) for s in (noise[0] + drawn, noise[1])]
    for scores, expected in zip((secret.present, secret.absent), ideal, strict=True):
        assert kstest(scores, expected).pvalue > 1e-4


def test_secret_scores_exist_only_for_secret_cohorts():
    for config, kinds in ((SUM, ["known"]), (LOCAL, ["known"]), (CENTRAL, ["known", "secret"])):
        assert [found.participation for found in scores_of(fixed(config), 100)] == kinds


@given(
    st.lists(st.floats(-30, 30), min_size=1, max_size=5), st.floats(0.01, 0.99), st.floats(0.3, 20)
)
def test_secret_scores_are_log_likelihood_ratios_of_the_mixture(scores, rate, stddev):
    x = np.array(scores)
    mixture = np.logaddexp(
        math.log1p(-rate) + norm.logpdf(x, 0, stddev), math.log(rate) + norm.logpdf(x, 1, stddev)
    )
    expected = np.sum(mixture - norm.logpdf(x, 0, stddev))
    found = _log_likelihood_ratio(x[:, None], rate, stddev)
    assert found.shape == (1,) and found[0] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_ratio_at_rate_one_is_that_of_presence():
    x = np.array([[-3.0], [0.2], [5.0]])
    expected = np.sum(norm.logpdf(x, 1, 2.0) - norm.logpdf(x, 0, 2.0))
    assert _log_likelihood_ratio(x, 1.0, 2.0)[0] == pytest.approx(expected)


@pytest.mark.parametrize("config", [LOCAL, SUM])
def test_canaries_use_only_the_shared_layers(config):
    (found,) = scores_of(fixed(config), 400, 1, 3.0, LAST)
    assert are_normal(
        found.present, 1 / 9 if config is LOCAL else 1, 1 / 3 if config is LOCAL else 1.5
    )


def test_an_adaptive_clip_is_followed():
    known, secret = scores_of(fixed(ADAPTIVE), 400, 4, 3.0)
    # the noised sum beside a count that gets a quarter of the budget
    assert are_normal(known.present, 1, 1.5 / math.sqrt(0.75))
    assert are_normal(known.absent, 0, 1.5 / math.sqrt(0.75))


def test_canaries_take_part_in_cohorts_of_the_mechanism(monkeypatch):
    drawn = []
    real = Sampler.__call__

    def watched(self, server_round):
        cohort = real(self, server_round)
        if self.federation != "audit-cohorts":  # which is tested without canaries
            drawn.append((self.poisson, self.rate, cohort))
        return cohort

    monkeypatch.setattr(Sampler, "__call__", watched)
    known, _ = scores_of(fixed(CENTRAL), 100, 2)
    assert all(poisson and rate == 0.4 for poisson, rate, _ in drawn)
    assert sum(len(cohort) for *_, cohort in drawn) == len(known.present)


def test_a_seed_repeats_an_audit_unless_noise_is_secret():
    for config in (fixed(LOCAL), fixed(SUM)):
        first, again, other = (scores_of(config, 100, seed=seed)[0] for seed in (0, 0, 1))
        np.testing.assert_array_equal(first.present, again.present)
        assert not np.array_equal(first.present[:30], other.present[:30])
        secure, too = (
            scores_of(replace(config, reproducible_noise=False), 100)[0] for _ in range(2)
        )
        assert len(secure.present) == len(too.present)
        assert not np.array_equal(secure.present, too.present)


@given(st.lists(st.sampled_from([0.0, 1.0, -2.0]), min_size=1, max_size=60), st.integers(1, 9))
def test_parts_are_disjoint_and_cover_all_nonzero_entries(values, parts):
    flat = np.array(values)
    found = [part_of(flat, part, parts) for part in range(parts)]
    assert np.concatenate(found).tolist() == np.flatnonzero(flat).tolist()
    sizes = [len(part) for part in found]
    assert max(sizes) - min(sizes) <= 1


def test_unflatten_inverts_flatten():
    like = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32([7, 8])}
    cut = unflatten(np.concatenate([a.ravel() for a in like.values()]).astype(np.float64), like)
    assert list(cut) == ["a", "b"]
    for name in like:
        np.testing.assert_array_equal(cut[name], like[name])
        assert cut[name].dtype == np.float32
