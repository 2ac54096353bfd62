import re
from dataclasses import replace

import numpy as np
import pytest

from client.errors import UserError
from client.privacy import LocalDP, NoMechanism, UserLevelDP
from server.plan import PrivacyConfig, PrivacyPlan
from tests.examples import LOCAL, UDP

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


def test_the_plan_sets_what_clients_apply():
    assert PrivacyPlan(UDP, 0.1, 200).client_mechanism() == UserLevelDP(0.25, 0.1, 200, 5.0, 0.5)
    assert PrivacyPlan(PrivacyConfig(), 0.1, 200).client_mechanism() == NoMechanism()
