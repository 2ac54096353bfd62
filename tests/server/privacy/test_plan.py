import math
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedser.client.privacy.base import NoMechanism
from fedser.client.privacy.central import CentralDP
from fedser.client.privacy.dp_sgd import DPSGD
from fedser.client.privacy.local import LocalDP
from fedser.client.privacy.noise import GradientClip
from fedser.client.privacy.user_level import UserLevelDP
from fedser.common.errors import UserError
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.server.privacy.composition import Releases, composed_epsilon
from fedser.server.privacy.plan import PrivacyPlan
from tests.examples import (
    ADAPTIVE,
    CENTRAL,
    DISTRIBUTED,
    DP_SGD,
    LAYERED,
    LOCAL,
    SHARED,
    UDP,
    NoNoise,
)

NONE = PrivacyConfig()
NAN, INF = float("nan"), float("inf")
SUM = replace(CENTRAL, vantage="sum", relation="zero_out")
REPLACE = replace(SUM, relation="replace_one")
NAMES = list(SHARED)
LAYERS = [NAMES[:2], NAMES[2:4], NAMES[4:]]


TWENTY = (Releases(20),)


def plan(config, exposures=TWENTY, **changes):
    fields = {"sampling_rate": 0.1, "num_rounds": 200, "num_clients": 50, "shared": SHARED}
    return PrivacyPlan(config, exposures=exposures, **(fields | changes))


@pytest.mark.parametrize("config", [NONE, UDP, LOCAL, LAYERED, CENTRAL, SUM, REPLACE])
def test_the_examples_are_in_order(config):
    config.check()


@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        # values out of range
        (UDP, {"epsilon": 0.0}, "privacy.epsilon=0.0 must be a finite number above 0"),
        (UDP, {"epsilon": NAN}, "privacy.epsilon=nan must be a finite number above 0"),
        (LOCAL, {"epsilon": -1.0}, "privacy.epsilon=-1.0 must be a finite number above 0"),
        (UDP, {"clipping_norm": 0.0}, "privacy.clipping_norm=0.0 must be a finite number"),
        (CENTRAL, {"clipping_norm": INF}, "privacy.clipping_norm=inf must be a finite number"),
        (UDP, {"nominal_delta": 1.0}, "privacy.nominal_delta=1.0 must lie between 0 and 1"),
        (UDP, {"nominal_delta": None}, "privacy.nominal_delta is missing, privacy=udp needs it"),
        (UDP, {"delta": 0.0}, "privacy.delta=0.0 must lie between 0 and 1"),
        (NONE, {"delta": 1.0}, "privacy.delta=1.0 must lie between 0 and 1"),
        (CENTRAL, {"delta": NAN}, "privacy.delta=nan must lie between 0 and 1"),
        (LOCAL, {"stop_at_epsilon": -1.0}, "privacy.stop_at_epsilon=-1.0 must be"),
        (LAYERED, {"layer_shares": [0.1, 0.0, 1.0]}, "privacy.layer_shares[1]=0.0 must be"),
        (LAYERED, {"layer_shares": [0.1, 0.3, NAN]}, "privacy.layer_shares[2]=nan must be"),
        (ADAPTIVE, {"target_quantile": 0.0}, "privacy.target_quantile=0.0 must lie between"),
        (ADAPTIVE, {"target_quantile": 1.0}, "privacy.target_quantile=1.0 must lie between"),
        (ADAPTIVE, {"clip_learning_rate": 0.0}, "privacy.clip_learning_rate=0.0 must be"),
        (ADAPTIVE, {"count_noise": 0.0}, "privacy.count_noise=0.0 must be"),
        (
            replace(LOCAL, epsilon=None),
            {"noise_multiplier": 0.0},
            "privacy.noise_multiplier=0.0 must be a finite number above 0",
        ),
        # names that do not exist
        (NONE, {"mechanism": "magic"}, "privacy.mechanism=magic is not one of none, udp, local"),
        (LOCAL, {"unit": "word"}, "privacy.unit=word is not one of utterance, client, speaker"),
        (LOCAL, {"relation": "swap"}, "privacy.relation=swap is not one of add_remove, zero_ou"),
        (LOCAL, {"vantage": "spy"}, "privacy.vantage=spy is not one of attributed, sum, outsider"),
        (CENTRAL, {"accountant": "gdp"}, "privacy.accountant=gdp is not one of pld, prv, rdp"),
        # what a mechanism needs
        (UDP, {"epsilon": None}, "privacy.epsilon is missing, privacy=udp needs it"),
        (UDP, {"clipping_norm": None}, "privacy.clipping_norm is missing, privacy=udp"),
        (LOCAL, {"clipping_norm": None}, "privacy.clipping_norm is missing, privacy=local"),
        (LAYERED, {"layer_shares": None}, "privacy.layer_shares is missing, privacy=layered"),
        (CENTRAL, {"accountant": None}, "privacy.accountant is missing, privacy=central needs"),
        (DP_SGD, {"accountant": None}, "privacy.accountant is missing, privacy=dp_sgd needs it"),
        (ADAPTIVE, {"target_quantile": None}, "privacy.target_quantile is missing, privacy=cen"),
        (ADAPTIVE, {"clip_learning_rate": None}, "privacy.clip_learning_rate is missing"),
        # what cannot be guaranteed
        (CENTRAL, {"vantage": "attributed"}, "privacy.vantage=attributed: privacy=central adds"),
        (ADAPTIVE, {"vantage": "attributed"}, "privacy.vantage=attributed: privacy=central_ad"),
        (UDP, {"vantage": "sum"}, "privacy.vantage=sum: privacy=udp is accounted for against"),
        (LOCAL, {"vantage": "outsider"}, "privacy.vantage=outsider: privacy=local is accounted"),
        (LAYERED, {"vantage": "sum"}, "privacy.vantage=sum: privacy=layered is accounted for"),
        (DP_SGD, {"vantage": "outsider"}, "privacy.vantage=outsider: privacy=dp_sgd is account"),
        (CENTRAL, {"relation": "replace_one"}, "privacy.relation=replace_one: privacy=central d"),
        (ADAPTIVE, {"relation": "replace_one"}, "privacy.relation=replace_one: privacy=central_"),
        (CENTRAL, {"unit": "speaker", "accountant": "rdp"}, "privacy.accountant=pld, not rdp"),
        (CENTRAL, {"unit": "speaker", "accountant": "prv"}, "privacy.accountant=pld, not prv"),
        (LOCAL, {"unit": "utterance"}, "privacy.unit=utterance: privacy=local guarantees a cli"),
        (CENTRAL, {"unit": "utterance"}, "privacy.unit=utterance: privacy=central guarantees a"),
        (UDP, {"unit": "utterance"}, "privacy.unit=utterance: privacy=udp guarantees a client"),
        (DP_SGD, {"unit": "client"}, "privacy.unit=client: privacy=dp_sgd guarantees an utter"),
        (DP_SGD, {"unit": "speaker"}, "privacy.unit=speaker: privacy=dp_sgd guarantees an utte"),
        (DP_SGD, {"relation": "replace_one"}, "privacy.relation=replace_one: privacy=dp_sgd dr"),
        (UDP, {"relation": "add_remove"}, "privacy.relation=add_remove: privacy=udp with privacy."),
        (UDP, {"relation": "zero_out"}, "accounted for only with privacy.relation=replace_one"),
        (LOCAL, {"relation": "add_remove"}, "privacy.relation=zero_out or replace_one: everybody"),
        (LAYERED, {"relation": "add_remove"}, "privacy.relation=add_remove: privacy=layered with"),
        (SUM, {"relation": "add_remove"}, "privacy=central with privacy.vantage=sum is accounted"),
        (UDP, {"layers": "first"}, "privacy.layers=first: privacy=udp shares every layer"),
        (NONE, {"layers": "last"}, "privacy.layers=last: privacy=none shares every layer"),
        (DP_SGD, {"layers": "first"}, "privacy.layers=first: privacy=dp_sgd shares every layer"),
        # sums, and what is sent of an update
        *(
            (config, {"aggregation": "ckks"}, f"together with privacy={config.mechanism}: set priv")
            for config in (UDP, LOCAL, CENTRAL, DISTRIBUTED, DP_SGD)
        ),
        (LOCAL, {"aggregation": "plain"}, "privacy=local: leave privacy.aggregation out"),
        (DISTRIBUTED, {"aggregation": "ckks"}, "set privacy.aggregation=secure"),
        (NONE, {"aggregation": "secure"}, "privacy=none: set privacy=distributed"),
        (NONE, {"aggregation": "bfv"}, "privacy.aggregation=bfv is not one of secure, plain, ckks"),
        (NONE, {"aggregation": "ckks"}, "privacy.dropout is missing, privacy.aggregation=ckks"),
        (NONE, {"aggregation": "ckks", "dropout": 0.5}, "privacy.dropout=0.5 must be at least 0"),
        (NONE, {"kept": 0.5}, "privacy.refresh is missing, privacy.kept needs it"),
        (NONE, {"kept": 0.0, "refresh": 2}, "privacy.kept=0.0 must be above 0 and at most 1"),
        (NONE, {"kept": 1.5, "refresh": 2}, "privacy.kept=1.5 must be above 0 and at most 1"),
        (NONE, {"kept": 0.5, "refresh": 0}, "privacy.refresh=0 must be at least 1"),
        # one of two
        *(
            (config, change, f"privacy={config.mechanism} takes either privacy.epsilon or privacy.")
            for config in (LOCAL, LAYERED, CENTRAL, ADAPTIVE, DP_SGD)
            for change in ({"noise_multiplier": 1.0}, {"epsilon": None})
        ),
    ],
)
def test_impossible_guarantees_are_rejected_by_key_and_reason(config, change, message):
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        plan(replace(config, **change))
    assert "\n" not in str(refused.value)


APPLIED = {
    "none": set(),
    "udp": {"epsilon", "nominal_delta", "clipping_norm", "stop_at_epsilon"},
    "local": {"epsilon", "noise_multiplier", "clipping_norm", "stop_at_epsilon"},
}
APPLIED["layered"] = APPLIED["local"] | {"layer_shares"}
APPLIED["dp_sgd"] = APPLIED["central"] = APPLIED["local"] | {"accountant"}
APPLIED["central_adaptive"] = APPLIED["central"] | {
    "target_quantile",
    "clip_learning_rate",
    "count_noise",
}
SOME = {
    "epsilon": 1.0,
    "noise_multiplier": 1.0,
    "nominal_delta": 0.5,
    "clipping_norm": 1.0,
    "accountant": "pld",
    "layer_shares": [1.0, 1.0, 1.0],
    "target_quantile": 0.5,
    "clip_learning_rate": 0.2,
    "count_noise": 100.0,
    "stop_at_epsilon": 100.0,
}


@pytest.mark.parametrize("key", SOME)
@pytest.mark.parametrize("config", [NONE, UDP, LOCAL, LAYERED, CENTRAL, ADAPTIVE, DP_SGD])
def test_keys_that_a_mechanism_does_not_apply_are_refused(config, key):
    asked = replace(config, **{key: SOME[key]})
    if key == "noise_multiplier":
        asked.epsilon = None
    if key in APPLIED[config.mechanism]:
        asked.check()
    else:
        expected = f"privacy.{key} is set, but privacy={config.mechanism} does not apply it"
        if config.mechanism == "udp" and key == "noise_multiplier":
            asked.epsilon = config.epsilon
        with pytest.raises(UserError, match=re.escape(expected)):
            asked.check()


@pytest.mark.parametrize(("clients", "rejected"), [(1, True), (2, False), (1001, True)])
def test_an_encrypted_sum_has_a_cohort_that_fits(clients, rejected):
    pytest.importorskip("tenseal", reason="needs tenseal: pip install 'fedser[encrypted]'")
    asked = PrivacyPlan(PrivacyConfig(aggregation="ckks", dropout=0.1), 1.0, 4, clients)
    if rejected:
        with pytest.raises(UserError, match=rf"2 to 1000 clients, and a cohort has {clients}: "):
            asked.check_cohort()
    else:
        asked.check_cohort()
        assert asked.min_clients == 2


def test_encryption_without_its_package_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "tenseal", None)
    monkeypatch.setitem(sys.modules, "tenseal.sealapi", None)
    asked = PrivacyPlan(PrivacyConfig(aggregation="ckks", dropout=0.1), 1.0, 4, 8)
    with pytest.raises(UserError, match=r"pip install 'fedser\[encrypted\]'"):
        asked.check_cohort()


def test_an_epsilon_that_no_noise_reaches_is_rejected():
    impossible = plan(replace(CENTRAL, epsilon=1e-8), (Releases(200, 0.5),))
    with pytest.raises(UserError, match=r"^privacy\.epsilon=1e-08: no noise is enough, increase"):
        impossible.sum_stddev(0.1)


@pytest.mark.parametrize(("relation", "sensitivity"), [("zero_out", 0.1), ("replace_one", 0.2)])
def test_local_noise_is_calibrated_over_the_planned_releases(relation, sensitivity):
    of_rounds = plan(replace(LOCAL, relation=relation))
    assert of_rounds.noise_multiplier == pytest.approx(5.4 / 2, abs=0.03)  # the reference value
    expected = LocalDP(False, [NAMES], [0.1], [of_rounds.noise_multiplier * sensitivity])
    assert of_rounds.client_mechanism() == expected
    fixed = replace(LOCAL, epsilon=None, noise_multiplier=2.0, relation=relation)
    assert plan(fixed).client_mechanism().noise == [2 * sensitivity]


def test_noise_is_calibrated_for_the_unit_that_is_worst_off():
    exposures = (Releases(20), Releases(400, 0.1), Releases(6))
    of_rounds = plan(DP_SGD, exposures)
    assert of_rounds.noise_multiplier == pytest.approx(
        max(plan(DP_SGD, (one,)).noise_multiplier for one in exposures), rel=2e-6
    )
    assert max(of_rounds.epsilon(one) for one in exposures) == pytest.approx(8, rel=1e-5)


def test_epsilon_of_a_plan_is_that_of_its_noise():
    for config in (LOCAL, CENTRAL):
        fixed = plan(replace(config, epsilon=None, noise_multiplier=1.5))
        for releases in (Releases(3), Releases(3, 0.2)):
            expected = composed_epsilon(releases, 1.5, 1e-5, "pld")
            assert fixed.epsilon(releases) == pytest.approx(expected, rel=1e-6)
    for config in (NONE, UDP):
        assert plan(config).noise_multiplier is None
        assert plan(config).epsilon(Releases(1)) == math.inf


def local_mus(mechanism, steps):
    """Sensitivity over noise of each group that is released."""
    return steps * np.array(mechanism.clipping_norms) / mechanism.noise


@given(
    st.lists(st.floats(0.01, 10), min_size=3, max_size=3),
    st.floats(0.1, 20),
    st.sampled_from([("zero_out", 1), ("replace_one", 2)]),
)
def test_layers_share_the_budget_of_the_whole(shares, noise_multiplier, relation):
    name, steps = relation
    config = replace(
        LAYERED,
        layer_shares=shares,
        epsilon=None,
        noise_multiplier=noise_multiplier,
        relation=name,
    )
    mechanism = plan(config).client_mechanism()
    assert mechanism.groups == LAYERS
    assert math.hypot(*mechanism.clipping_norms) == pytest.approx(config.clipping_norm)
    # Gaussian releases compose to the root of the sum of their squares
    mus = local_mus(mechanism, steps)
    assert np.sum(mus**2) == pytest.approx(noise_multiplier**-2)
    np.testing.assert_allclose(mus**2 * noise_multiplier**2, np.array(shares) / sum(shares))


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e9, 1e36]), min_size=6, max_size=6),
    st.sampled_from([LOCAL, LAYERED]),
)
def test_no_update_moves_a_local_release_beyond_the_plan(seed, scales, config):
    rng = np.random.default_rng(seed)
    of_rounds = plan(config)
    mechanism = of_rounds.client_mechanism()
    update = {
        name: (scale * rng.normal(size=size)).astype(np.float32)
        for (name, size), scale in zip(SHARED.items(), scales, strict=True)
    }
    one = mechanism.protect(update, 1, NoNoise())
    other = mechanism.protect({name: -array for name, array in update.items()}, 1, NoNoise())
    moved = sum(
        sum(float(np.square(one[n] - other[n].astype(float)).sum()) for n in group) / stddev**2
        for group, stddev in zip(mechanism.groups, mechanism.noise, strict=True)
    )
    assert moved <= of_rounds.noise_multiplier**-2 * (1 + 1e-5)


def test_layers_give_the_first_more_noise_and_the_last_less():
    layered, flat = (plan(config).client_mechanism() for config in (LAYERED, LOCAL))
    assert layered.noise[0] > 2 * flat.noise[0]
    assert layered.noise[0] > layered.noise[1] > layered.noise[2]
    assert layered.noise[2] < flat.noise[0]


def test_shares_of_another_number_of_layers_are_refused():
    for shares in ([0.5, 0.5], [0.25] * 4, []):
        with pytest.raises(UserError, match=rf"layer_shares names {len(shares)} layers, 3 are sh"):
            plan(replace(LAYERED, layer_shares=shares))
    last = {name: SHARED[name] for name in LAYERS[2]}
    mechanism = plan(replace(LAYERED, layer_shares=[3.0]), shared=last).client_mechanism()
    assert mechanism.groups == [LAYERS[2]] and mechanism.clipping_norms == [0.1]


@pytest.mark.parametrize(("config", "steps"), [(CENTRAL, 1), (SUM, 1), (REPLACE, 2)])
def test_central_noise_is_proportional_to_the_clip(config, steps):
    fixed = plan(replace(config, epsilon=None, noise_multiplier=1.5))
    assert fixed.central and fixed.sampling == "poisson"
    assert fixed.client_mechanism() == CentralDP(False, NAMES)
    assert fixed.sum_stddev(0.1) == pytest.approx(1.5 * steps * 0.1)
    assert fixed.sum_stddev(7.0) == pytest.approx(1.5 * steps * 7.0)
    assert fixed.expected_cohort == pytest.approx(5.0)
    assert fixed.count_noise is None and not plan(LOCAL).central
    assert plan(LOCAL).sampling == plan(DP_SGD).sampling == "fixed"


@pytest.mark.parametrize(
    ("epsilon", "noise_multiplier"), [(1, 5.51), (2, 3.03), (4, 1.77), (8, 1.13)]
)
def test_central_noise_is_calibrated_over_the_planned_rounds(epsilon, noise_multiplier):
    of_rounds = plan(replace(CENTRAL, epsilon=float(epsilon)), (Releases(200, 0.1),))
    assert of_rounds.noise_multiplier == pytest.approx(noise_multiplier, rel=0.015)


@given(
    st.floats(0.1, 20),
    st.floats(1.01, 100),
    st.sampled_from(["zero_out", "replace_one"]),
    st.floats(0.01, 10),
)
def test_noised_count_and_sum_together_cost_the_plan(noise, factor, relation, clip):
    steps = 2 if relation == "replace_one" else 1
    config = replace(
        ADAPTIVE,
        vantage="sum",
        relation=relation,
        epsilon=None,
        noise_multiplier=noise,
        count_noise=0.5 * steps * noise * factor,
    )
    adaptive = plan(config)
    of_sum = steps * clip / adaptive.sum_stddev(clip)
    of_count = steps * 0.5 / adaptive.count_noise
    assert of_sum**2 + of_count**2 == pytest.approx(noise**-2)
    if steps == 1:  # theorem 1 of Andrew et al. (2021)
        z_delta = (noise**-2 - (2 * adaptive.count_noise) ** -2) ** -0.5
        assert adaptive.sum_stddev(clip) == pytest.approx(z_delta * clip)


@given(st.floats(0.05, 50), st.integers(1, 5000), st.sampled_from(["zero_out", "replace_one"]))
def test_the_count_costs_at_most_a_quarter_of_the_budget(noise, clients, relation):
    config = replace(
        ADAPTIVE, vantage="sum", relation=relation, epsilon=None, noise_multiplier=noise
    )
    adaptive = plan(config, num_clients=clients)
    steps = 2 if relation == "replace_one" else 1
    assert (steps * 0.5 / adaptive.count_noise) ** 2 <= noise**-2 / 4 * (1 + 1e-9)
    assert adaptive.count_noise == pytest.approx(max(adaptive.expected_cohort / 20, steps * noise))
    # so the sum needs at most this much more noise
    assert adaptive.sum_stddev(1.0) <= steps * noise * math.sqrt(4 / 3) * (1 + 1e-9)


def test_a_count_noise_that_spends_the_whole_budget_is_refused():
    for relation, least in (("zero_out", 1.0), ("replace_one", 2.0)):
        config = replace(
            ADAPTIVE, vantage="sum", relation=relation, epsilon=None, noise_multiplier=2.0
        )
        with pytest.raises(UserError, match=rf"privacy\.count_noise.*: set it above {least:g}$"):
            plan(replace(config, count_noise=least)).sum_stddev(0.1)
        plan(replace(config, count_noise=1.01 * least)).sum_stddev(0.1)


def test_the_plan_sets_what_clients_apply():
    assert plan(UDP).client_mechanism() == UserLevelDP(0.25, 0.1, 200, 5.0, 0.5)
    assert plan(NONE).client_mechanism() == NoMechanism()
    private = plan(replace(DP_SGD, epsilon=None, noise_multiplier=0.9)).client_mechanism()
    assert private == DPSGD(False, 1.0, 0.9)
    assert private.gradient == GradientClip(1.0, "utterance", 0.9)
    for config in (LOCAL, LAYERED, CENTRAL, ADAPTIVE, DP_SGD):
        assert plan(config).client_mechanism().share_metrics is False
        assert plan(replace(config, share_metrics=True)).client_mechanism().share_metrics is True


def test_layers_that_are_not_shared_are_not_sent():
    last = {name: SHARED[name] for name in LAYERS[2]}
    assert plan(LOCAL, shared=last).client_mechanism().groups == [LAYERS[2]]
    assert plan(CENTRAL, shared=last).client_mechanism().shared == LAYERS[2]
