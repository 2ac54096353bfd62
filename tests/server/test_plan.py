import re
from dataclasses import replace

import numpy as np
import pytest

from client.errors import UserError
from client.privacy import LocalDP, NoMechanism, UserLevelDP
from server.plan import PrivacyConfig, PrivacyPlan
from tests.examples import UDP

SIZES = np.array([20, 10])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, r"privacy\.epsilon=0\.0 must be a finite number above 0"),
        ({"epsilon": None}, r"privacy\.epsilon is missing, privacy=udp needs it"),
        ({"epsilon": float("nan")}, r"privacy\.epsilon=nan must be"),
        ({"clipping_norm": 0.0}, r"privacy\.clipping_norm=0\.0 must be"),
        ({"clipping_norm": float("inf")}, r"privacy\.clipping_norm=inf must be"),
        ({"nominal_delta": 1.0}, r"privacy\.nominal_delta=1\.0 must lie between 0 and 1"),
        ({"delta": 0.0}, r"privacy\.delta=0\.0 must lie between 0 and 1"),
        ({"mechanism": "magic"}, r"privacy\.mechanism=magic is not one of none, udp, local"),
    ],
)
def test_an_impossible_plan_is_refused_by_key(change, message):
    with pytest.raises(UserError, match=message):
        PrivacyPlan(replace(UDP, **change), 0.1, 200)


def test_epsilon_without_a_mechanism_is_refused():
    with pytest.raises(UserError, match=r"privacy\.epsilon is set, but privacy=none"):
        PrivacyPlan(PrivacyConfig(epsilon=5.0), 0.1, 200)


LOCAL = PrivacyConfig(mechanism="local", epsilon=8.0, clipping_norm=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_multiplier": 1.0}, "either privacy.epsilon or privacy.noise_multiplier"),
        ({"epsilon": None}, "either privacy.epsilon or privacy.noise_multiplier"),
        ({"clipping_norm": None}, "privacy.clipping_norm is missing, privacy=local needs it"),
        ({"clipping_norm": 0.0}, "privacy.clipping_norm=0.0 must be a finite number above 0"),
        ({"unit": "utterance"}, "privacy.unit=utterance is not one of client, speaker"),
        ({"relation": "swap"}, "privacy.relation=swap is not one of add_remove, replace_one"),
        ({"stop_at_epsilon": -1.0}, "privacy.stop_at_epsilon=-1.0 must be"),
    ],
)
def test_an_impossible_local_plan_is_refused(change, message):
    with pytest.raises(UserError, match=re.escape(message)):
        PrivacyPlan(replace(LOCAL, **change), 0.1, 200)


@pytest.mark.parametrize(
    ("mechanism", "change", "message"),
    [
        (UDP, {"noise_multiplier": 1.0}, "privacy.noise_multiplier is set, but privacy=udp"),
        (UDP, {"relation": "add_remove"}, "known for replace_one alone"),
        (PrivacyConfig(), {"stop_at_epsilon": 1.0}, "privacy.stop_at_epsilon is set, but"),
    ],
)
def test_keys_that_a_mechanism_does_not_apply_are_refused(mechanism, change, message):
    with pytest.raises(UserError, match=re.escape(message)):
        PrivacyPlan(replace(mechanism, **change), 0.1, 200)


@pytest.mark.parametrize(("relation", "sensitivity"), [("add_remove", 0.1), ("replace_one", 0.2)])
def test_local_noise_is_calibrated_over_the_planned_releases(relation, sensitivity):
    plan = PrivacyPlan(replace(LOCAL, relation=relation), 0.1, 200, 20, ("w",))
    assert plan.noise_multiplier == pytest.approx(5.4 / 2, abs=0.03)  # the reference value
    expected = LocalDP(0.1, plan.noise_multiplier * sensitivity, ["w"], False)
    assert plan.client_mechanism() == expected
    fixed = replace(LOCAL, epsilon=None, noise_multiplier=2.0, relation=relation)
    assert PrivacyPlan(fixed, 0.1, 200, 20, ("w",)).client_mechanism().noise == 2 * sensitivity


def test_local_states_its_epsilon_and_what_leaves_outside_of_it():
    said = PrivacyPlan(LOCAL, 0.1, 200, 20).statement(7.9, 20, SIZES, 5)
    assert (said["epsilon"], said["nominal_epsilon"], said["unit"]) == (7.9, None, "client")
    text = " ".join(said["warnings"])
    assert "privacy.unit=speaker" in text and "seed" in text
    assert "outside the guarantee" not in text and "does not hold" not in text
    shared = replace(LOCAL, share_metrics=True, unit="speaker")
    text = " ".join(PrivacyPlan(shared, 0.1, 200, 20).statement(7.9, 20, SIZES, 5)["warnings"])
    assert "outside the guarantee" in text and "one speaker holds" not in text


def test_the_plan_sets_what_clients_apply():
    assert PrivacyPlan(UDP, 0.1, 200).client_mechanism() == UserLevelDP(0.25, 0.1, 200, 5.0, 0.5)
    assert PrivacyPlan(PrivacyConfig(), 0.1, 200).client_mechanism() == NoMechanism()


def test_without_a_mechanism_nothing_is_claimed():
    said = PrivacyPlan(PrivacyConfig(), 0.1, 200).statement(None, 20, SIZES, 1)
    for key in (
        "unit",
        "relation",
        "delta",
        "epsilon",
        "nominal_epsilon",
        "nominal_delta",
        "accountant",
    ):
        assert said[key] is None
    assert said["releases_max"] == 20
    assert "nothing is guaranteed" in said["warnings"][0]


def test_udp_states_its_nominal_and_its_real_epsilon_with_what_they_mean():
    said = PrivacyPlan(UDP, 0.1, 200).statement(4522.0, 20, SIZES, 5)
    assert (said["nominal_epsilon"], said["nominal_delta"]) == (5.0, 0.5)
    assert (said["epsilon"], said["delta"]) == (4522.0, 1e-5)
    assert (said["unit"], said["relation"]) == ("client", "replace_one")
    text = " ".join(said["warnings"])
    assert "does not hold" in text and "one speaker holds 5" in text and "amplifies nothing" in text
    assert "0.026 for the largest client, 0.053 for the smallest" in text
    assert "one speaker" not in " ".join(
        PrivacyPlan(UDP, 0.1, 200).statement(1.0, 20, SIZES, 1)["warnings"]
    )
