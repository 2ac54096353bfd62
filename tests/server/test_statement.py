from dataclasses import replace

import numpy as np

from server.plan import PrivacyConfig, PrivacyPlan
from server.statement import privacy_statement
from tests.examples import LOCAL, UDP

SIZES = np.array([20, 10])


def test_local_states_its_epsilon_and_what_leaves_outside_of_it():
    said = privacy_statement(PrivacyPlan(LOCAL, 0.1, 200, 20), 7.9, 20, SIZES, 5)
    assert (said["epsilon"], said["nominal_epsilon"], said["unit"]) == (7.9, None, "client")
    text = " ".join(said["warnings"])
    assert "privacy.unit=speaker" in text and "seed" in text
    assert "privacy.share_metrics" not in text and "does not hold" not in text
    shared = replace(LOCAL, share_metrics=True, unit="speaker")
    text = " ".join(
        privacy_statement(PrivacyPlan(shared, 0.1, 200, 20), 7.9, 20, SIZES, 5)["warnings"]
    )
    assert "privacy.share_metrics" in text and "one speaker holds" not in text


def test_without_a_mechanism_nothing_is_claimed():
    said = privacy_statement(PrivacyPlan(PrivacyConfig(), 0.1, 200), None, 20, SIZES, 1)
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
    said = privacy_statement(PrivacyPlan(UDP, 0.1, 200), 4522.0, 20, SIZES, 5)
    assert (said["nominal_epsilon"], said["nominal_delta"]) == (5.0, 0.5)
    assert (said["epsilon"], said["delta"]) == (4522.0, 1e-5)
    assert (said["unit"], said["relation"]) == ("client", "replace_one")
    text = " ".join(said["warnings"])
    assert "does not hold" in text and "one speaker holds 5" in text and "amplifies nothing" in text
    assert "0.026 for the largest client, 0.053 for the smallest" in text
    assert "one speaker" not in " ".join(
        privacy_statement(PrivacyPlan(UDP, 0.1, 200), 1.0, 20, SIZES, 1)["warnings"]
    )
