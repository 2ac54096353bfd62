from dataclasses import replace

import numpy as np
import pytest

from client.errors import UserError
from client.privacy import NoMechanism, UserLevelDP
from server.plan import PrivacyConfig, PrivacyPlan
from tests.examples import UDP

SIZES = np.array([20, 10])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": 0.0}, r"privacy\.epsilon=0\.0 must be a finite number above 0"),
        ({"epsilon": None}, r"privacy\.epsilon=None must be"),
        ({"epsilon": float("nan")}, r"privacy\.epsilon=nan must be"),
        ({"clipping_norm": 0.0}, r"privacy\.clipping_norm=0\.0 must be"),
        ({"clipping_norm": float("inf")}, r"privacy\.clipping_norm=inf must be"),
        ({"nominal_delta": 1.0}, r"privacy\.nominal_delta=1\.0 must lie between 0 and 1"),
        ({"delta": 0.0}, r"privacy\.delta=0\.0 must lie between 0 and 1"),
        ({"mechanism": "magic"}, r"privacy\.mechanism=magic is not one of udp, none"),
    ],
)
def test_an_impossible_plan_is_refused_by_key(change, message):
    with pytest.raises(UserError, match=message):
        PrivacyPlan(replace(UDP, **change), 0.1, 200)


def test_epsilon_without_a_mechanism_is_refused():
    with pytest.raises(UserError, match=r"privacy\.epsilon is set, but privacy=none"):
        PrivacyPlan(PrivacyConfig(epsilon=5.0), 0.1, 200)


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
