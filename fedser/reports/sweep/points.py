"""What the figure and the page of a sweep show of its runs, and where on their common axis."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import pandas as pd

from fedser.reports import figures
from fedser.reports.wording import delta_text
from fedser.results.attacks import AttackRecord, at_one, attack_series, strongest
from fedser.results.files import Results
from fedser.results.utility import chance_uar

COUNTS = ["speakers", "clients"]
STRONGEST = ""
"""The name under which the strongest of a run's attacks goes."""
NO_GUARANTEE = "none"
REPEATED = {"seed", "privacy", "privacy.epsilon", "privacy.noise_multiplier"}
"""Overrides in which the runs along one line differ."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def run_label(varied: "pd.Series[str]") -> str:
    """Name a run by what differs from other runs, as in `udp_50, seed=1`."""
    pairs = [f"{key}={value}" for key, value in varied.dropna().items()]
    return ", ".join(pair.removeprefix("privacy=") for pair in pairs)


def sweep_points(varied: pd.DataFrame, read: Sequence[Results | str]) -> pd.DataFrame:
    """Return what is shown of each run that has results; NaN where there is nothing to show.

    Parameters
    ----------
    varied, read : DataFrame, list of dict or str
        As of `fedser.reports.sweep.sweep.read_runs`.

    Returns
    -------
    DataFrame
        A row a run, indexed by its number in `read`. `one` and `most` are the strongest
        attack's AUC, with `_low` and `_high` of its interval; those of `uar` are the worst and the
        best fold, and `chance` is the UAR of guessing. Runs of one `series`
        and `mechanism` differ in epsilon and seed alone.
    """
    others = varied[[key for key in varied if key not in REPEATED]]
    rows = {
        number: {
            "label": run_label(varied.iloc[number]) or str(varied.index[number]),
            "series": run_label(others.iloc[number]),
            **_point(results),
        }
        for number, results in enumerate(read)
        if not isinstance(results, str)
    }
    points = pd.DataFrame.from_dict(rows, orient="index")
    if rows:
        # Repeated runs share the epsilon they were configured with, not quite the one they spent.
        points["configured"] = points["nominal"].fillna(points["real"]).map("{:.3g}".format)
    return points


def _point(results: Results) -> dict[str, object]:
    privacy, uar = results["privacy"], results["utility"]["uar"]
    one, most = (attacks.get(STRONGEST) for attacks in leaks(results))
    folds = fold_uars(results)
    return {
        "mechanism": privacy["mechanism"],
        "corpus": results["corpus"]["name"],
        "unit": privacy["unit"],
        "delta": privacy["delta"],
        "real": _number(privacy["epsilon"]),
        "nominal": _number(privacy["nominal_epsilon"]),
        "chance": 100 * chance_uar(results),
        "uar": 100 * _number(uar),
        "uar_low": min(folds, default=math.nan),
        "uar_high": max(folds, default=math.nan),
        **_auc("one", one),
        **_auc("most", most),
        **{count: results[count] for count in COUNTS},
    }


def leaks(results: Results) -> tuple[dict[str, AttackRecord], dict[str, AttackRecord]]:
    """Attacks that have an AUC from one and from the most leaked updates, and the STRONGEST.

    Those that recognise speakers again are left out: their AUC is over pairs of clients.
    """
    series = {
        label: records
        for label, records in attack_series(results["attacks"]).items()
        if records[0]["across"] is None
    }
    one = {label: at_one(records) for label, records in series.items()}
    return _scored(one), _scored({label: records[-1] for label, records in series.items()})


def _scored(attacks: Mapping[str, AttackRecord | None]) -> dict[str, AttackRecord]:
    found = {STRONGEST: strongest(attacks.values()), **attacks}
    return {label: a for label, a in found.items() if a and a["auc"] is not None}


def _auc(name: str, attack: AttackRecord | None) -> dict[str, float]:
    if attack is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), math.nan)
    low, high = attack["ci95_auc"] or (math.nan, math.nan)
    return {name: attack["auc"], f"{name}_low": low, f"{name}_high": high}


def fold_uars(results: Results) -> list[float]:
    """Return the test UAR of each fold that has one, in per cent."""
    return [100 * fold["uar"] for fold in results["utility"]["per_fold"] if fold["uar"] is not None]


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def looks(points: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Yield each mechanism with its color and marker, the same wherever it is drawn."""
    colors, markers = cycle(figures.PALETTE), cycle(figures.MARKERS)
    for mechanism in points["mechanism"].unique():
        color = figures.INK if mechanism == "none" else next(colors)
        yield str(mechanism), color, next(markers)


@dataclass(frozen=True)
class RunAxis:
    """The x axis: real epsilon on a log scale, or the runs by name where none has an epsilon.

    Attributes
    ----------
    places : Series of float
        Of each row of the points.
    ticks : dict of float to str
    label : str
    limits : tuple of float, or None
        None where runs stand side by side by name.
    edge : float or None
        Where runs without a guarantee stand, right of all epsilons; None if there are none.
    """

    places: "pd.Series[float]"
    ticks: dict[float, str]
    label: str
    limits: tuple[float, float] | None
    edge: float | None


def run_axis(points: pd.DataFrame) -> RunAxis:
    """Put runs along the x axis by real epsilon, those without one at the right edge."""
    stated = pd.concat([points["real"], points["nominal"]]).dropna()
    stated = stated[stated > 0]  # a log axis has no 0: it stands at the left edge
    if stated.empty:
        places = pd.Series(range(len(points)), index=points.index, dtype=float)
        ticks = dict(zip(places, points["label"], strict=True))
        return RunAxis(places, ticks, "run", None, None)
    low, high = stated.min(), stated.max()
    margin = max(2.0, (high / low) ** 0.04)  # wide enough to hold a tick
    ticks, right, edge = _ticks(low / margin, high * margin), high, None
    if points["real"].isna().any():
        right = edge = high * margin**3
        ticks[edge] = NO_GUARANTEE
    deltas = " or ".join(delta_text(delta) for delta in sorted(points["delta"].dropna().unique()))
    label = f"real ε (log scale{f', δ = {deltas}' if deltas else ''})"
    places = points["real"].clip(lower=low / margin).fillna(right)
    return RunAxis(places, ticks, label, (low / margin, right * margin), edge)


def _ticks(low: float, high: float) -> dict[float, str]:
    """Round values between two bounds: powers of ten, with 2 and 5 between them if few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high <= 1000 * low else (1,)
    values = [step * 10.0**power for power in powers for step in steps]
    return {value: _power_text(value) for value in values if low <= value <= high}


def _power_text(value: float) -> str:
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    digits, power = f"{value:.0e}".split("e")
    return f"{digits}·10{str(int(power)).translate(SUPERSCRIPTS)}".removeprefix("1·")


def sample(points: pd.DataFrame) -> str:
    """How many speakers and clients stand behind each of the runs, as a figure states it."""
    return "n = " + " and ".join(f"{_span(points[count])} {count}" for count in COUNTS) + " a run"


def _span(counts: "pd.Series[int]") -> str:
    low, high = counts.min(), counts.max()
    return str(low) if low == high else f"{low} to {high}"
