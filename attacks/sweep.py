"""One table and one figure over the runs of a Hydra multirun."""

import math
from itertools import cycle
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from attacks import figures
from attacks.jobs import PROBLEM_FILE
from attacks.results import (
    Attack,
    Results,
    at_one,
    attack_series,
    read_results,
    strongest,
    write_atomically,
)
from attacks.verdict import delta_text
from client.errors import UserError

UTILITY = ["mechanism", "uar", "accuracy"]
GUARANTEE = ["nominal_epsilon", "epsilon", "epsilon_known_participation", "participation"]
STATEMENT = [*UTILITY, *GUARANTEE, "delta", "unit", "vantage"]
COUNTS = ["speakers", "clients"]
SHOWN_LEAKS = (1, 20)
NO_GUARANTEE = "none"
GREY = "#8c959f"
# A marker is small at one leaked update and large at the most.
SMALL, LARGE = 4.0, 7.0
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def write_sweep(sweep_dir: Path) -> Path | None:
    """Write `sweep.csv`, a row a run, and `sweep.png` into the folder of a multirun.

    Parameters
    ----------
    sweep_dir : Path
        Folder whose subfolders are Hydra's run folders.

    Returns
    -------
    Path or None
        The table; None when the folder holds no run. A run that failed keeps its row, with
        the reason under `problem` and no figures. Columns such as `correlation_auc_20` name
        the number of leaked updates: 1, 20 and the largest that was attacked. Attacks that
        recognise speakers again have an `eer` there and no `auc`, which is of something else.
    """
    varied, read = read_runs(sweep_dir)
    if not read:
        return None
    rows = pd.DataFrame([_row(results) for results in read])
    attacked = [name for name in rows if name not in {*STATEMENT, *COUNTS, "problem"}]
    rows = rows.reindex(columns=[*STATEMENT, *COUNTS, *attacked, "problem"])
    rows = rows.astype(dict.fromkeys(COUNTS, "Int64")).set_axis(varied.index)
    table = pd.concat([varied, rows], axis="columns").reset_index(names="run")
    write_atomically(sweep_dir / "sweep.csv", table.to_csv(index=False))
    points = [
        {"label": run_label(row) or run, **_point(results)}
        for (run, row), results in zip(varied.iterrows(), read, strict=True)
        if not isinstance(results, str)
    ]
    if points:
        figures.save_png(_figure(pd.DataFrame(points)), sweep_dir / "sweep.png")
    return sweep_dir / "sweep.csv"


def read_runs(sweep_dir: Path) -> tuple[pd.DataFrame, list[Results | str]]:
    """Read the runs of a multirun.

    Returns
    -------
    DataFrame
        The overrides in which they differ, indexed by the name of the run's folder.
    list of dict or str
        Results of each, or why it has none.
    """
    found = {
        path.parent
        for name in ("results.json", ".hydra", PROBLEM_FILE)
        for path in sweep_dir.glob(f"*/{name}")
    }
    runs = sorted(found, key=lambda run: (len(run.name), run.name))  # 2 before 10
    overrides = pd.DataFrame([_overrides(run) for run in runs], dtype=object)
    overrides.index = pd.Index([run.name for run in runs])
    varied = overrides.loc[:, overrides.nunique(dropna=False) > 1]
    return varied, [_read(run) for run in runs]


def run_label(varied: "pd.Series[str]") -> str:
    """Name a run by what differs from other runs, as in `udp_50, seed=1`."""
    pairs = [f"{key}={value}" for key, value in varied.dropna().items()]
    return ", ".join(pair.removeprefix("privacy=") for pair in pairs)


def _overrides(run: Path) -> dict[str, str]:
    path = run / ".hydra" / "overrides.yaml"
    lines = yaml.safe_load(path.read_text("utf-8")) if path.exists() else None
    pairs = [str(line).partition("=") for line in lines or []]
    return {key.lstrip("+~"): value for key, _, value in pairs}


def _read(run: Path) -> Results | str:
    """Results of one run, or why it has none."""
    problem = run / PROBLEM_FILE
    try:
        return read_results(run / "results.json")
    except UserError as error:
        return problem.read_text() if problem.exists() else str(error).replace(f"{run}/", "")


def _row(results: Results | str) -> dict[str, Any]:
    if isinstance(results, str):
        return {"problem": results}
    summary = {**results, **results["utility"], **results["privacy"]}
    row = {column: summary[column] for column in STATEMENT + COUNTS}
    for label, records in attack_series(results["attacks"]).items():
        for record in records:
            leaked = record["leaked_updates"]
            if leaked in SHOWN_LEAKS or record is records[-1]:
                for figure in ("eer",) if record["across"] else ("auc", "uar_calibrated"):
                    row[f"{label.replace(', ', '_')}_{figure}_{leaked}"] = record[figure]
    return row


def _point(results: Results) -> dict[str, Any]:
    """What the figure shows of one run; NaN where there is nothing to show."""
    series = attack_series(results["attacks"]).values()
    privacy, uar = results["privacy"], results["utility"]["uar"]
    return {
        "mechanism": privacy["mechanism"],
        "unit": privacy["unit"],
        "delta": privacy["delta"],
        "real": _number(privacy["epsilon"]),
        "nominal": _number(privacy["nominal_epsilon"]),
        "uar": 100 * _number(uar),
        "one": _auc(strongest(at_one(records) for records in series)),
        "most": _auc(strongest(records[-1] for records in series)),
        **{count: results[count] for count in COUNTS},
    }


def _auc(attack: Attack | None) -> float:
    return math.nan if attack is None else attack["auc"]


def _number(value: float | None) -> float:
    return math.nan if value is None else value


@rc_context(figures.STYLE)
def _figure(points: pd.DataFrame) -> Figure:
    """Test UAR above, AUC of the strongest attack below, over the real epsilon or over runs."""
    figure = Figure(figsize=(7.6, 7.0), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    points["place"] = _places(lower, points)
    handles = []
    colors, markers = cycle(figures.PALETTE), cycle(figures.MARKERS)
    for mechanism, group in points.groupby("mechanism", sort=False):
        color = figures.INK if mechanism == "none" else next(colors)
        look: dict[str, Any] = {"color": color, "marker": next(markers)}
        units = ", ".join(group["unit"].dropna().unique())
        name = f"{mechanism} ({units})" if units else str(mechanism)
        handles.append(Line2D([], [], **look, ms=LARGE, label=name))
        _plot(upper, group, "uar", ls="-", ms=LARGE, **look)
        _plot(lower, group, "most", ls="-", ms=LARGE, **look)
        _plot(lower, group, "one", ls="--", ms=SMALL, **look)
    upper.axhline(100 * figures.CHANCE_UAR, color=figures.INK, ls=":", lw=1)
    lower.axhline(figures.CHANCE_AUC, color=figures.INK, ls=":", lw=1)
    counts = " and ".join(f"{_span(points[count])} {count}" for count in COUNTS)
    upper.set(ylabel="test UAR (%)", title=f"n = {counts} a run")
    upper.set_ylim(0, 1.03 * upper.get_ylim()[1])
    # Also where the guarantee is against somebody who sees less.
    lower.set_title("attacks read each update as the server receives it")
    lower.set(ylabel="AUC of the strongest attack\n(0.5 = guessing)")
    lower.set_ylim(min(0.4, lower.get_ylim()[0]), 1.02)
    handles += _key(nominal=bool(points["nominal"].notna().any()))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _places(axes: Axes, points: pd.DataFrame) -> "pd.Series[float]":
    """Put runs along the x axis by real epsilon, those without one at the right edge."""
    stated = pd.concat([points["real"], points["nominal"]]).dropna()
    if stated.empty:
        axes.set_xticks(range(len(points)), points["label"], rotation=30, ha="right")
        axes.set_xlabel("run")
        return pd.Series(range(len(points)), index=points.index, dtype=float)
    low, high = stated.min(), stated.max()
    margin = max(2.0, (high / low) ** 0.04)  # wide enough to hold a tick
    edge = high * margin**3
    ticks, right = _ticks(low / margin, high * margin), high
    if points["real"].isna().any():
        ticks[edge], right = NO_GUARANTEE, edge
    axes.set_xscale("log")
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.set_xlim(low / margin, right * margin)
    deltas = " or ".join(delta_text(delta) for delta in sorted(points["delta"].dropna().unique()))
    axes.set_xlabel(f"real ε (log scale{f', δ = {deltas}' if deltas else ''})")
    return points["real"].fillna(edge)


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


def _plot(axes: Axes, group: pd.DataFrame, column: str, ls: str, ms: float, **look: Any) -> None:
    """Draw every run as a point, tied to its nominal epsilon, and a line through their means."""
    measured = group.dropna(subset=column)
    claimed = measured.dropna(subset="nominal")
    for _, run in claimed.iterrows():
        axes.plot([run["nominal"], run["place"]], [run[column]] * 2, color=GREY, lw=0.7, zorder=1)
    axes.plot(claimed["nominal"], claimed[column], ls="", ms=ms, mfc="white", **look)
    # Repeated runs share the epsilon they were configured with, not quite the one they spent.
    configured = measured["nominal"].fillna(measured["place"]).map("{:.3g}".format)
    means = measured.groupby(configured)[["place", column]].mean().sort_values("place")
    axes.plot(means["place"], means[column], ls=ls, lw=1.2, color=look["color"])
    axes.plot(measured["place"], measured[column], ls="", ms=ms, **look)


def _key(nominal: bool) -> list[Line2D]:
    """Legend of what is the same for every mechanism."""
    look: dict[str, Any] = {"color": GREY, "marker": "o"}
    handles = [
        Line2D([], [], **look, ms=LARGE, label="most leaked updates"),
        Line2D([], [], **look, ms=SMALL, ls="--", label="one leaked update"),
        Line2D([], [], color=figures.INK, ls=":", lw=1, label="chance"),
    ]
    if nominal:
        handles.append(Line2D([], [], **look, ms=LARGE, ls="", label="filled: real ε"))
        handles.append(Line2D([], [], **look, ms=LARGE, mfc="white", label="hollow: nominal ε"))
    return handles


def _span(counts: "pd.Series[int]") -> str:
    low, high = counts.min(), counts.max()
    return str(low) if low == high else f"{low} to {high}"
