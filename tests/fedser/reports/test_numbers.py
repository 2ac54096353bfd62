import pytest

from fedser.reports.numbers import delta_text, p_text
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
