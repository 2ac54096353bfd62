"""Numbers as text: the formats that all reports share.

The run page, the sweep page, the tables and the terminal call these functions, so that one figure
looks the same in each of them. A number that was not measured is shown as a dash.
"""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from fedser.results.attacks import AttackRecord
from fedser.server.privacy.statement import epsilon_text

DASH = "–"
NBSP = "\N{NO-BREAK SPACE}"


def percent(share: float | None) -> str:
    """Return a share as a percentage with one decimal: 0.583 gives "58.3 %"."""
    return DASH if share is None else f"{percent_number(share)}{NBSP}%"


def percent_number(share: float) -> str:
    """Return a share in per cent without the sign, for a column that has it in its heading."""
    return f"{100 * share:.1f}"


def decimal(number: float | None, digits: int = 2) -> str:
    """Return a number with a fixed number of decimals and with commas for thousands."""
    return DASH if number is None else f"{number:,.{digits}f}"


def significant(number: float | None) -> str:
    """Return a number with four significant digits."""
    return DASH if number is None else f"{number:.4g}"


def with_range(value: Any, low: Any, high: Any, digits: int) -> str:
    """Return a value with its interval, as in "0.903 (0.851–0.948)".

    Parameters
    ----------
    value, low, high : float or None
        None and NaN mean "not measured". Without bounds the value stands alone.
    digits : int
        Number of decimals.
    """
    if pd.isna(value):
        return DASH
    bounds = "" if pd.isna(low) else f" ({low:.{digits}f}–{high:.{digits}f})"
    return f"{value:.{digits}f}{bounds}"


def percent_with_range(share: Any, low: Any, high: Any) -> str:
    """Return a share and its range over folds in per cent: "60.0 (56.1–60.5)"."""
    value, lowest, highest = (
        None if pd.isna(number) else 100 * number for number in (share, low, high)
    )
    return with_range(value, lowest, highest, digits=1)


def fold_percent(share: float | None, folds: list[float]) -> str:
    """Return a mean over folds in per cent, with the lowest and the highest of several folds."""
    low, high = (min(folds), max(folds)) if len(folds) > 1 else (None, None)
    return percent_with_range(share, low, high)


def fold_range(folds: list[float]) -> str:
    """Return the number of folds and their range: "5 folds, 56.1 % to 60.5 %"."""
    if len(folds) < 2:
        return counted(len(folds), "fold")
    return f"{len(folds)} folds, {percent(min(folds))} to {percent(max(folds))}"


def auc_text(auc: float) -> str:
    """Return an AUC with three decimals, for tables."""
    return f"{auc:.3f}"


def auc_with_interval(auc: Any, low: Any, high: Any) -> str:
    """Return an AUC with its 95 % interval: "0.903 (0.851–0.948)"."""
    return with_range(auc, low, high, digits=3)


def auc_bounds(attack: AttackRecord) -> tuple[float | None, float | None]:
    """Return both ends of the 95 % interval of an AUC, or None twice."""
    low, high = attack["ci95_auc"] or (None, None)
    return low, high


def interval_text(attack: AttackRecord) -> str:
    """Return the interval of an AUC in words, as in "95 % interval 0.85–0.95"."""
    bounds = attack["ci95_auc"]
    return f"95{NBSP}% interval {bounds[0]:.2f}–{bounds[1]:.2f}" if bounds else "no interval"


def p_text(p_value: float | None) -> str:
    """Return a p-value with three decimals, or "<0.001"."""
    return "<0.001" if p_value is not None and p_value < 0.001 else decimal(p_value, 3)


def nominal_text(epsilon: float | None) -> str:
    """Return a nominal epsilon as it was configured."""
    return DASH if epsilon is None else f"{epsilon:,g}"


def delta_text(delta: float | None) -> str:
    """Return delta as in "0.5" or "1e-5"."""
    return DASH if delta is None else f"{delta:g}".replace("e-0", "e-")


def guarantee_text(epsilon: float, delta: float, unit: str) -> str:
    """Return a guarantee, as in "ε = 7.99 at δ = 1e-5 for one client"."""
    return f"ε = {epsilon_text(epsilon)} at δ = {delta_text(delta)} for one {unit}"


def nominal_claim(epsilon: float, delta: float | None) -> str:
    """Return what a mechanism is published with, as in "nominal ε = 25 at δ = 0.5"."""
    at_delta = "" if delta is None else f" at δ = {delta_text(delta)}"
    return f"nominal ε = {nominal_text(epsilon)}{at_delta}"


def relation_text(relation: str) -> str:
    """Return a neighbouring relation, such as "replace-one"."""
    return relation.replace("_", "-")


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: "1 run", "2 runs"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def updates_text(attack: AttackRecord) -> str:
    """Return the number of leaked updates: "1 update", "5 updates" or "all updates"."""
    leaked = attack["leaked_updates"]
    return "all updates" if leaked == "all" else counted(leaked, "update")


def sample_text(speakers: Iterable[int], clients: Iterable[int]) -> str:
    """Return the sample size behind a figure: "10 speakers, 50 clients".

    Parameters
    ----------
    speakers, clients : iterable of int
        One count per run or attack. Different counts give a range: "9 to 10 speakers".
    """
    return f"{_count_range(speakers)} speakers, {_count_range(clients)} clients"


def _count_range(counts: Iterable[int]) -> str:
    found = list(counts)
    low, high = min(found), max(found)
    return str(low) if low == high else f"{low} to {high}"
