from typing import Any

import pytest

from fedser.reports.findings import attack_remark, leakage_finding, privacy_finding
from fedser.results.attacks import attack_series
from tests.studies import make_attack, make_verification

Results = dict[str, Any]


NO_GUARANTEE = dict.fromkeys(
    ("unit", "relation", "delta", "epsilon", "participation", "nominal_epsilon", "nominal_delta")
    + ("accountant", "clipping_norm", "noise", "epsilon_one_federation", "composition", "units")
)


SECRET = {
    "mechanism": "central",
    "relation": "add_remove",
    "vantage": "whoever sees the models of all rounds; not the server, which sees each update",
    "epsilon": 7.99,
    "epsilon_one_federation": 4.5,
    "epsilon_known_participation": 24.84,
    "epsilon_known_replace_one": 77.03,
    "participation": "secret",
    "nominal_epsilon": None,
    "nominal_delta": None,
    "accountant": "privacy loss distribution",
    "sampling": "poisson",
    "noise_multiplier": 1.1304,
    "clipping_norm": 0.1,
    "noise": "system",
}


@pytest.mark.parametrize(
    ("changes", "remark"),
    [
        ({}, "a fixed threshold misses this leak"),
        ({"uar_fixed": 0.56}, ""),
        ({"ci95_auc": [0.49, 0.95]}, ""),
        ({"ci95_auc": None}, "a fixed threshold misses this leak"),
        ({"ci95_auc": None, "auc": 0.59}, ""),
        ({"auc": None, "ci95_auc": None}, "no AUC"),
        (
            {"auc": 0.2, "ci95_auc": [0.1, 0.4]},
            "ranks victims in the wrong order, so the update still reveals the attri",
        ),
        (make_verification(), ""),
        (
            make_verification(auc=None, eer=None),
            "no AUC: no two sets of updates come from one client",
        ),
        (make_verification(across="shards", auc=None), "no two clients belong to one speaker"),
        (make_verification(auc=0.2, ci95_auc=[0.1, 0.4]), "ranks pairs in the wrong order"),
    ],
)
def test_remark(changes: dict[str, Any], remark: str) -> None:
    found = attack_remark(make_attack(**changes))
    assert remark in found
    assert bool(remark) == bool(found)


def recognition(across: str, leaked: int | str, eer: float | None) -> dict[str, Any]:
    ends = None if eer is None else [eer - 0.05, eer + 0.06]
    auc = None if eer is None else 1 - eer
    low = None if auc is None else [auc - 0.06, auc + 0.05]
    figures = {"auc": auc, "ci95_auc": low, "eer": eer, "ci95_eer": ends}
    return make_verification(across=across, leaked_updates=leaked, **figures)


RECOGNITION = [
    recognition("rounds", 1, 0.3),
    recognition("rounds", "all", 0.1),
    recognition("shards", 1, 0.35),
    recognition("shards", "all", 0.21),
]


@pytest.mark.parametrize(
    ("attacks", "figure", "said"),
    [
        ([*RECOGNITION, make_attack()], "AUC 0.90", "reveal the speaker's gender"),
        ([recognition("rounds", 1, None), RECOGNITION[3]], "EER 21.0", "two clients belong to one"),
        ([recognition("shards", 1, None)], "undefined", "no pairs to decide on"),
        ([recognition("rounds", 1, 0.46)], "EER 46.0", "The difference to guessing is not proven"),
    ],
)
def test_finding_on_recognition(attacks: list[dict[str, Any]], figure: str, said: str) -> None:
    finding = leakage_finding(attack_series(attacks))
    assert finding.figure.startswith(figure) and said in finding.sentence


def test_nominal_epsilon_alone_is_no_guarantee(results: Results) -> None:
    results["privacy"]["epsilon"] = None
    finding = privacy_finding(results)
    assert finding.figure == "no guarantee"
    assert "The nominal ε = 25 at δ = 0.5 is not a proven bound" in finding.sentence


@pytest.mark.parametrize(
    ("epsilon", "delta", "strength"),
    [(0.9, 1e-5, "strong"), (8.0, 1e-5, "moderate"), (10.1, 1e-5, "too weak"), (0.9, 0.5, "void")],
)
def test_strength_of_a_guarantee(
    results: Results, epsilon: float, delta: float, strength: str
) -> None:
    results["privacy"] |= {"epsilon": epsilon, "delta": delta}
    assert f"guarantee is {strength}" in privacy_finding(results).sentence
