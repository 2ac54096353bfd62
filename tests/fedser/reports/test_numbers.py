import pytest

from fedser.reports.numbers import (
    auc_with_interval,
    delta_text,
    fold_percent,
    fold_range,
    p_text,
    percent_with_range,
    sample_text,
)
from fedser.server.privacy.statement import epsilon_text


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [
        (0.5312, "0.532"),
        (26.4, "26.4"),
        (1082.3, "1,083"),
        (8.0049, "8.01"),
        (7.9999999, "8"),
        (8.3, "8.3"),
        (105306.0, "105,306"),
        (0.0, "0"),
        (None, "–"),
    ],
)
def test_epsilon_text(epsilon: float | None, text: str) -> None:
    assert epsilon_text(epsilon) == text


@pytest.mark.parametrize(
    ("p_value", "text"), [(1 / 5001, "<0.001"), (0.001, "0.001"), (1 / 126, "0.008"), (None, "–")]
)
def test_p_text(p_value: float | None, text: str) -> None:
    assert p_text(p_value) == text


@pytest.mark.parametrize(("delta", "text"), [(1e-5, "1e-5"), (1e-10, "1e-10"), (0.5, "0.5")])
def test_delta_text(delta: float, text: str) -> None:
    assert delta_text(delta) == text


def test_tables_show_a_value_with_its_range() -> None:
    assert auc_with_interval(0.9034, 0.8511, 0.9486) == "0.903 (0.851–0.949)"
    assert auc_with_interval(0.9034, None, None) == "0.903"
    assert percent_with_range(float("nan"), 0.5, 0.6) == "–"


def test_folds_have_a_range_if_there_are_several() -> None:
    assert fold_percent(0.6, [0.561, 0.605]) == "60.0 (56.1–60.5)"
    assert fold_percent(0.6, [0.6]) == "60.0"
    assert fold_percent(None, []) == "–"
    assert fold_range([0.5, 0.4]).split() == ["2", "folds,", "40.0", "%", "to", "50.0", "%"]
    assert fold_range([0.5]) == "1 fold"


def test_sample_has_a_range_if_runs_differ() -> None:
    assert sample_text([10, 10], [50]) == "10 speakers, 50 clients"
    assert sample_text([10, 9], [50, 45]) == "9 to 10 speakers, 45 to 50 clients"
