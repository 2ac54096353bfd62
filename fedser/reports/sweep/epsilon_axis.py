"""The x axis of a sweep's figures: the place of each run, and the ticks."""

import math
from dataclasses import dataclass

import pandas as pd

from fedser.reports.numbers import delta_text

NO_GUARANTEE = "none"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class RunAxis:
    """The x axis: real epsilon on a log scale, or the names of runs if no run has an epsilon.

    Attributes
    ----------
    places : Series of float
        Place of each row of the points.
    ticks : dict of float to str
        Text of each tick.
    label : str
        Label of the axis.
    limits : tuple of float, or None
        Both ends of the log scale; None if the runs stand side by side by name.
    edge : float or None
        Place of the runs without a guarantee, to the right of all epsilons; None if there are
        none.
    """

    places: "pd.Series[float]"
    ticks: dict[float, str]
    label: str
    limits: tuple[float, float] | None
    edge: float | None


def run_axis(points: pd.DataFrame) -> RunAxis:
    """Place runs by real epsilon; runs without an epsilon stand at the right edge.

    Parameters
    ----------
    points : DataFrame
        As returned by `fedser.reports.sweep.points.sweep_points`, at least one row.
    """
    stated = pd.concat([points["real"], points["nominal"]]).dropna()
    stated = stated[stated > 0]  # a log scale has no 0: it is drawn at the left edge
    if stated.empty:
        places = pd.Series(range(len(points)), index=points.index, dtype=float)
        ticks = dict(zip(places, points["label"], strict=True))
        return RunAxis(places, ticks, "run", None, None)
    low, high = stated.min(), stated.max()
    margin = max(2.0, (high / low) ** 0.04)  # wide enough for a tick
    ticks, right, edge = _ticks(low / margin, high * margin), high, None
    if points["real"].isna().any():
        right = edge = high * margin**3
        ticks[edge] = NO_GUARANTEE
    deltas = " or ".join(delta_text(delta) for delta in sorted(points["delta"].dropna().unique()))
    label = f"real ε (log scale{f', δ = {deltas}' if deltas else ''})"
    places = points["real"].clip(lower=low / margin).fillna(right)
    return RunAxis(places, ticks, label, (low / margin, right * margin), edge)


def _ticks(low: float, high: float) -> dict[float, str]:
    """Return powers of ten between two bounds; also 2 and 5 times these if there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high <= 1000 * low else (1,)
    values = [step * 10.0**power for power in powers for step in steps]
    return {value: _power_text(value) for value in values if low <= value <= high}


def _power_text(value: float) -> str:
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    digits, power = f"{value:.0e}".split("e")
    return f"{digits}·10{str(int(power)).translate(SUPERSCRIPTS)}".removeprefix("1·")
