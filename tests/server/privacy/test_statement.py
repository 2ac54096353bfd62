import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from fedser.conf.privacy_keys import PrivacyConfig
from fedser.server.privacy.composition import Releases
from fedser.server.privacy.plan import PrivacyPlan
from fedser.server.privacy.statement import (
    BEST,
    CLIPPED_GRADIENTS,
    ENCRYPTED,
    EVALUATION,
    FIXED_SPLITS,
    FLOATING_POINT,
    FOLDS_NOT_RELEASED,
    HYPER_PARAMETERS,
    METRICS_SHARED,
    NETWORKED,
    NO_AMPLIFICATION,
    NO_MECHANISM,
    REPRODUCIBLE_NOISE,
    SECRET_COHORTS,
    TRUSTED_SERVER,
    UTTERANCES,
    ZERO_OUT,
    ProtectedUnits,
    SpentPrivacy,
    privacy_statement,
)
from tests.examples import ADAPTIVE, CENTRAL, DP_SGD, LAYERED, LOCAL, SHARED, UDP

SIZES = np.array([20, 10])
SUM = replace(CENTRAL, vantage="sum", relation="zero_out")
SAMPLED = (Releases(200, 0.1),)
EXACT = (Releases(20),)


def say(config, spent=None, exposures=EXACT, **about):
    plan = PrivacyPlan(config, 0.1, 200, 50, exposures, SHARED)
    known = (20.5, 77.0) if config.vantage == "outsider" else (None, None)
    spent = spent or SpentPrivacy(7.9, 4.4, *known, 20, 1.5, exposures)
    about = {"units": 50, "shards": 1, "normalisation": "none", **about}
    return privacy_statement(plan, spent, ProtectedUnits(SIZES, **about))


def secret(config):
    return replace(config, reproducible_noise=False)


def one(config):
    return replace(config, epsilon=None, noise_multiplier=1.5)


@pytest.mark.parametrize(
    ("config", "exposures", "expected"),
    [
        (
            LOCAL,
            EXACT,
            ("local", "client", "replace_one", "known", "fixed", "exact Gaussian composition"),
        ),
        (
            replace(LAYERED, relation="zero_out"),
            EXACT,
            ("layered", "client", "zero_out", "known", "fixed", "exact Gaussian composition"),
        ),
        (
            CENTRAL,
            SAMPLED,
            ("central", "client", "add_remove", "secret", "poisson", "privacy loss distributions"),
        ),
        (
            replace(SUM, unit="speaker", relation="replace_one"),
            EXACT,
            ("central", "speaker", "replace_one", "known", "poisson", "exact Gaussian composition"),
        ),
        (
            replace(ADAPTIVE, accountant="rdp"),
            SAMPLED,
            ("central_adaptive", "client", "add_remove", "secret", "poisson", "Renyi"),
        ),
        (
            replace(DP_SGD, accountant="prv"),
            (Releases(20, 0.5), Releases(5)),
            ("dp_sgd", "utterance", "add_remove", "known", "fixed", "privacy random variables"),
        ),
        (DP_SGD, EXACT, ("dp_sgd", "utterance", "add_remove", "known", "fixed", "exact Gaussian")),
        (
            UDP,
            EXACT,
            ("udp", "client", "replace_one", "known", "fixed", "exact Gaussian composition"),
        ),
    ],
)
def test_a_guarantee_names_what_it_holds_for(config, exposures, expected):
    config = config if config.mechanism == "udp" else one(config)
    said = say(config, exposures=exposures)
    keys = ("mechanism", "unit", "relation", "participation", "sampling")
    assert tuple(said[key] for key in keys) == expected[:-1]
    assert said["accountant"].startswith(expected[-1])
    assert said["epsilon"] == 7.9 and said["epsilon_one_federation"] == 4.4
    assert said["delta"] == 1e-5 and said["releases_max"] == 20 and said["units"] == 50
    assert said["composition"] == {
        "noise_multiplier": 1.5,
        "releases": [asdict(releases) for releases in exposures],
    }
    assert said["clipping_norm"] == config.clipping_norm
    assert said["noise_multiplier"] == config.noise_multiplier


@pytest.mark.parametrize(
    ("config", "whom"),
    [
        (LOCAL, "the server, which sees every update with its sender"),
        (LAYERED, "the server, which sees every update with its sender"),
        (DP_SGD, "the server, which sees every update with its sender"),
        (UDP, "the server, which sees every update with its sender"),
        (SUM, "everybody who sees the noised sums of all rounds and knows who took part; not"),
        (CENTRAL, "everybody who sees the models of all rounds but not who took part; not the"),
        (ADAPTIVE, "everybody who sees the models of all rounds but not who took part; not the"),
    ],
)
def test_a_guarantee_names_against_whom_it_holds(config, whom):
    assert say(config)["vantage"].startswith(whom)


@pytest.mark.parametrize("config", [LOCAL, LAYERED, CENTRAL, ADAPTIVE, SUM, DP_SGD, UDP])
def test_known_epsilons_stand_beside_a_secret_one_alone(config):
    said = say(config)
    assert said["epsilon_known_participation"] == (
        20.5 if said["participation"] == "secret" else None
    )
    assert said["epsilon_known_replace_one"] == (
        77.0 if said["participation"] == "secret" else None
    )
    warned = SECRET_COHORTS in said["warnings"]
    assert warned == (said["participation"] == "secret")


ALWAYS = [EVALUATION, BEST, HYPER_PARAMETERS, FIXED_SPLITS]


@pytest.mark.parametrize(
    ("config", "warnings"),
    [
        (PrivacyConfig(), [NO_MECHANISM]),
        (LOCAL, [NO_AMPLIFICATION, *ALWAYS]),
        (LAYERED, [NO_AMPLIFICATION, *ALWAYS]),
        (replace(LOCAL, relation="zero_out"), [ZERO_OUT, NO_AMPLIFICATION, *ALWAYS]),
        (CENTRAL, [TRUSTED_SERVER, SECRET_COHORTS, *ALWAYS]),
        (ADAPTIVE, [TRUSTED_SERVER, SECRET_COHORTS, *ALWAYS]),
        (SUM, [TRUSTED_SERVER, ZERO_OUT, *ALWAYS]),
        (DP_SGD, [UTTERANCES, *ALWAYS, FLOATING_POINT]),
    ],
)
def test_what_is_outside_the_guarantee_is_said(config, warnings):
    said = say(secret(config))
    too_noisy = (said["noise_to_signal"] or 0.0) > 1
    assert said["warnings"][too_noisy:] == warnings
    if config.mechanism == "none":
        return
    assert say(config)["warnings"] == [REPRODUCIBLE_NOISE, *said["warnings"]]
    sharing = say(replace(secret(config), share_metrics=True))["warnings"]
    assert [line for line in sharing if line not in said["warnings"]] == [METRICS_SHARED]


@pytest.mark.parametrize("clients", [8, 40, 4000])
def test_noise_that_outweighs_learning_is_named(clients):
    plan = PrivacyPlan(one(SUM), 0.5, 25, clients, EXACT, SHARED)
    spent = SpentPrivacy(7.9, 4.4, None, None, 20, 1.5, EXACT)
    said = privacy_statement(plan, spent, ProtectedUnits(SIZES, 50, 1, "none"))
    ratio = 1.5 / (0.5 * clients) * math.sqrt(sum(SHARED.values()) / 25)
    assert said["noise_to_signal"] == pytest.approx(ratio)
    warned = [line for line in said["warnings"] if line.startswith("The noise in the last model")]
    assert bool(warned) == (ratio > 1)
    assert all(f"is {ratio:.2g} times" in line for line in warned)


@pytest.mark.parametrize("config", [PrivacyConfig(), UDP, DP_SGD])
def test_noise_of_unknown_size_is_not_compared(config):
    assert say(config)["noise_to_signal"] is None


@pytest.mark.parametrize(
    ("config", "noise"),
    [
        (PrivacyConfig(), None),
        (LOCAL, "seeded"),
        (UDP, "seeded"),
        (secret(LOCAL), "system"),
        (secret(CENTRAL), "system"),
        (secret(DP_SGD), "system"),
        (secret(UDP), "system"),
    ],
)
def test_the_source_of_the_noise_is_said(config, noise):
    said = say(config)
    assert said["noise"] == noise
    assert (REPRODUCIBLE_NOISE in said["warnings"]) == (noise == "seeded")


@pytest.mark.parametrize(("units", "warned"), [(9_000, False), (11_000, True)])
def test_a_delta_too_large_for_the_units_is_warned_of(units, warned):
    # delta 1e-5: a tenth over the number of units is at 10,000
    said = [line for line in say(LOCAL, units=units)["warnings"] if line.startswith("Delta")]
    assert len(said) == warned
    assert all("11,000 units" in line and "privacy.delta=1e-6 or less" in line for line in said)


def test_folds_that_count_together_are_said():
    together = say(LOCAL, federations=5, most=4)["warnings"]
    assert any(
        "all 5 federations of this run: each client trains in up to 4" in w for w in together
    )
    declared = replace(LOCAL, cross_validation="evaluation")
    assert FOLDS_NOT_RELEASED in say(declared, federations=5, most=4)["warnings"]
    assert not any("federations" in line for line in say(LOCAL)["warnings"])


def test_all_that_leaves_a_node_is_listed():
    assert say(LOCAL)["leaves_device"] == ["update"]
    said = say(LOCAL, networked=True)
    assert [what.split(":")[0].split(" of ")[0] for what in said["leaves_device"]] == [
        "update",
        "roster",
        "confusion tables",
    ]
    assert NETWORKED in said["warnings"] and EVALUATION not in said["warnings"]


@pytest.mark.parametrize("config", [LOCAL, CENTRAL, UDP])
def test_a_client_that_is_a_part_of_a_speaker_is_said_to_be_one(config):
    assert any("one speaker holds 5" in warning for warning in say(config, shards=5)["warnings"])
    for said in (say(config), say(replace(config, unit="speaker"), shards=5)):
        assert not any("one speaker holds" in warning for warning in said["warnings"])


@pytest.mark.parametrize(
    ("config", "shards", "normalisation", "tied"),
    [
        (DP_SGD, 1, "speaker", "utterance"),
        (DP_SGD, 1, "corpus", None),
        (DP_SGD, 1, "none", None),
        (LOCAL, 5, "speaker", "client"),
        (LOCAL, 1, "speaker", None),
        (LOCAL, 5, "none", None),
        (replace(LOCAL, unit="speaker"), 5, "speaker", None),
    ],
)
def test_statistics_that_tie_units_together_are_said(config, shards, normalisation, tied):
    said = [
        warning
        for warning in say(config, shards=shards, normalisation=normalisation)["warnings"]
        if "Features are normalised" in warning
    ]
    assert len(said) == (tied is not None)
    assert all(
        f"guarantee (unit: {tied}) takes these statistics as fixed" in warning for warning in said
    )


def test_encryption_guarantees_nothing_and_says_what_it_hides():
    nothing = SpentPrivacy(None, None, None, None, 20, None, ())
    said = say(PrivacyConfig(aggregation="ckks", dropout=0.1), nothing)
    assert said["epsilon"] is None and said["mechanism"] == "none"
    assert said["vantage"].startswith("the server, which sees the sums of all rounds and who took")
    assert said["warnings"] == [ENCRYPTED]
    assert said["leaves_device"] == ["encrypted update", "num_examples", "loss"]


def test_without_a_mechanism_nothing_is_claimed():
    said = say(
        PrivacyConfig(),
        SpentPrivacy(None, None, None, None, 20, None, ()),
        shards=5,
        normalisation="speaker",
    )
    for key in (
        "unit",
        "relation",
        "participation",
        "delta",
        "epsilon",
        "epsilon_one_federation",
        "epsilon_known_participation",
        "epsilon_known_replace_one",
        "composition",
        "units",
        "nominal_epsilon",
        "nominal_delta",
        "accountant",
        "noise_multiplier",
        "clipping_norm",
        "noise",
    ):
        assert said[key] is None
    assert said["releases_max"] == 20 and said["mechanism"] == "none"
    assert said["vantage"].startswith("the server")
    assert said["warnings"] == [NO_MECHANISM]


def test_udp_states_its_nominal_and_its_real_epsilon():
    said = say(UDP, SpentPrivacy(4522.0, 4522.0, None, None, 20, 1.0, EXACT), shards=5)
    assert (said["nominal_epsilon"], said["nominal_delta"]) == (5.0, 0.5)
    assert (said["epsilon"], said["delta"]) == (4522.0, 1e-5)
    text = " ".join(said["warnings"])
    assert "The nominal epsilon 5 at delta 0.5 does not hold" in text
    assert CLIPPED_GRADIENTS in text and NO_AMPLIFICATION in text
    assert "0.026 for the largest client, 0.053 for the smallest" in text


@pytest.mark.parametrize("config", [LOCAL, LAYERED, CENTRAL, ADAPTIVE, DP_SGD])
def test_only_udp_has_a_nominal_epsilon(config):
    said = say(config)
    assert said["nominal_epsilon"] is None and said["nominal_delta"] is None
    assert not any("nominal" in warning for warning in said["warnings"])
