"""One table and one figure over the runs of a Hydra multirun."""

from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from attacks import figures
from attacks.results import at_one, attack_series, read_results, write_atomically
from client.errors import UserError

UTILITY = ["mechanism", "uar", "accuracy", "nominal_epsilon", "epsilon", "delta"]
COUNTS = ["speakers", "clients"]
MAX_TICKS = 10


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
        the reason under `problem` and no figures.
    """
    found = {
        path.parent for name in ("results.json", ".hydra") for path in sweep_dir.glob(f"*/{name}")
    }
    runs = sorted(found, key=lambda run: (len(run.name), run.name))  # 2 before 10
    if not runs:
        return None
    overrides = pd.DataFrame([_overrides(run) for run in runs], dtype=object)
    varied = overrides.loc[:, overrides.nunique(dropna=False) > 1]
    rows = pd.DataFrame([_row(run) for run in runs])
    attacked = [name for name in rows if name not in {*UTILITY, *COUNTS, "problem"}]
    rows = rows.reindex(columns=[*UTILITY, *COUNTS, *attacked, "problem"])
    table = pd.concat([varied, rows.astype(dict.fromkeys(COUNTS, "Int64"))], axis="columns")
    table.insert(0, "run", [run.name for run in runs])
    write_atomically(sweep_dir / "sweep.csv", table.to_csv(index=False))
    figure = _figure(table, [_label(row) for _, row in varied.iterrows()])
    if figure:
        figures.save_png(figure, sweep_dir / "sweep.png")
    return sweep_dir / "sweep.csv"


def _overrides(run: Path) -> dict[str, str]:
    path = run / ".hydra" / "overrides.yaml"
    lines = yaml.safe_load(path.read_text("utf-8")) if path.exists() else None
    pairs = [str(line).partition("=") for line in lines or []]
    return {key.lstrip("+~"): value for key, _, value in pairs}


def _label(varied: "pd.Series[str]") -> str:
    return ", ".join(f"{key}={value}" for key, value in varied.dropna().items())


def _row(run: Path) -> dict[str, Any]:
    """Figures of one run, or why it has none."""
    try:
        results = read_results(run / "results.json")
    except UserError as error:
        return {"problem": str(error).replace(f"{run}/", "")}
    summary = {**results, **results["utility"], **results["privacy"]}
    row = {column: summary[column] for column in UTILITY + COUNTS}
    for label, records in attack_series(results["attacks"]).items():
        for leaked, record in {"one": at_one(records), "most": records[-1]}.items():
            for figure in ("auc", "uar_calibrated"):
                column = f"{label.replace(', ', '_')}_{figure}_{leaked}"
                row[column] = record[figure] if record else None
    return row


@rc_context(figures.STYLE)
def _figure(table: pd.DataFrame, labels: list[str]) -> Figure | None:
    """Test UAR above, AUC of the strongest attack below, over epsilon or else over runs."""
    labels = [label or run for label, run in zip(labels, table["run"], strict=True)]
    curves = table.assign(label=labels, test=100 * table["uar"].astype(float))
    for leaked in ("one", "most"):
        columns = [name for name in table if str(name).endswith(f"_auc_{leaked}")]
        curves[leaked] = table[columns].astype(float).max(axis="columns")
    curves = curves[table["problem"].isna()]
    if curves.empty:
        return None
    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    curves["place"] = _places(lower, curves)
    blue, orange, green, *_ = figures.PALETTE
    _plot(upper, curves, {"test": ("test UAR", blue)})
    _plot(lower, curves, {"one": ("AUC, 1 update", orange), "most": ("AUC, most updates", green)})
    upper.axhline(100 * figures.CHANCE_UAR, color=figures.INK, ls="--", lw=1, label="chance")
    lower.axhline(figures.CHANCE_AUC, color=figures.INK, ls="--", lw=1, label="chance")
    counts = " and ".join(f"{_span(curves[count])} {count}" for count in COUNTS)
    upper.set(ylabel="test UAR (%)", ylim=(0, 100), title=f"n = {counts} a run")
    lower.set(ylabel="AUC of the strongest attack\n(0.5 = guessing)")
    lower.set_ylim(min(0.4, lower.get_ylim()[0]), 1.02)
    for axes in (upper, lower):
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure


def _places(axes: Axes, curves: pd.DataFrame) -> "pd.Series[float]":
    """Put runs along the x axis by epsilon, those without one at the right edge."""
    epsilon = curves["nominal_epsilon"].astype(float).fillna(curves["epsilon"].astype(float))
    if epsilon.isna().all():
        axes.set_xticks(range(len(curves)), curves["label"], rotation=30, ha="right")
        axes.set_xlabel("run")
        return pd.Series(range(len(curves)), index=curves.index, dtype=float)
    spent = sorted(epsilon.dropna().unique())
    edge = 3 * spent[-1]
    ticks = {value: f"{value:.3g}" for value in spent[:: 1 + len(spent) // MAX_TICKS]}
    ticks |= {edge: "none"} if epsilon.isna().any() else {}
    axes.set_xscale("log")
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.set_xlabel("ε (nominal where the mechanism names one; log scale)")
    return epsilon.fillna(edge)


def _plot(axes: Axes, curves: pd.DataFrame, shown: dict[str, tuple[str, str]]) -> None:
    """Draw every run as a point, and a line through the mean of runs at one place."""
    mechanisms = curves.groupby("mechanism")
    for column, (label, color) in shown.items():
        for marker, (mechanism, group) in zip(figures.MARKERS, mechanisms, strict=False):
            measured = group.dropna(subset=column)
            if measured.empty:
                continue
            name = f"{label}, {mechanism}" if len(mechanisms) > 1 else label
            means = measured.groupby("place")[column].mean()
            axes.plot(means.index, means, color=color, lw=1.2)
            axes.plot(measured["place"], measured[column], marker, color=color, ms=5, label=name)


def _span(counts: "pd.Series[int]") -> str:
    low, high = counts.min(), counts.max()
    return str(low) if low == high else f"{low} to {high}"
