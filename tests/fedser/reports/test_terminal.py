from typing import Any

import pytest

from fedser.reports.terminal import summary_table
from tests.fedser.reports.test_findings import NO_GUARANTEE, RECOGNITION, SECRET, recognition
from tests.studies import make_attack

Results = dict[str, Any]


def one_space(text: object) -> str:
    """A text with plain spaces for no-break spaces."""
    return " ".join(str(text).split())


def test_summary_shows_the_error_rate_of_recognition(results: Results) -> None:
    def shown(attacks: list[dict[str, Any]]) -> dict[str, list[str]]:
        columns = summary_table(results | {"attacks": attacks}).columns
        return {
            str(column.header): [one_space(cell) for cell in column.cells] for column in columns
        }

    table = shown([*RECOGNITION[2:], recognition("rounds", 1, None)])
    across = [f"correlation, speaker across {w}" for w in ("shards", "shards", "rounds")]
    assert table["attack"] == across
    assert table["EER"] == ["35.0 %", "21.0 %", "–"]
    assert table["AUC (95 % interval)"] == ["0.650 (0.590–0.700)", "0.790 (0.730–0.840)", "–"]
    assert "EER" not in shown([make_attack()])


@pytest.mark.parametrize(
    ("changes", "caption"),
    [
        ({}, "ε = 105,307 at δ = 1e-5 for one client"),
        (
            SECRET,
            "ε = 7.99 at δ = 1e-5 for one client if participation is secret "
            "(ε = 24.9 if it is known)",
        ),
        (NO_GUARANTEE, "no guarantee"),
    ],
)
def test_printed_summary_ends_with_the_guarantee(
    results: Results, changes: Results, caption: str
) -> None:
    results["privacy"] |= changes
    found = one_space(summary_table(results).caption)
    assert found == f"test UAR 58.3 % over 5 folds; {caption}"
