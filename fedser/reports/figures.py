"""The figures of a study, drawn for colour-blind readers (Okabe-Ito), screen and paper.

Figures are built with matplotlib's objects, never pyplot, so that nothing global is left behind.
"""

import io
import re
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedser.common.files import write_bytes
from fedser.results.attacks import AttackRecord, at_one, leaked_order
from fedser.results.files import Results
from fedser.results.utility import chance_uar

CHANCE_AUC = 0.5
INK, GREY = "#1f2328", "#8c959f"
# Without yellow and black, which vanish on a white or a dark page.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vPX"
WIDTH, HEIGHT, LEGEND_ROW = 5.2, 3.7, 0.18  # inches
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "legend.frameon": False,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "fedser",
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
}


@rc_context(STYLE)
def utility_figure(rounds: pd.DataFrame, results: Results) -> Figure | None:
    """UAR over rounds: mean over folds, and the range between the worst and the best fold.

    Parameters
    ----------
    rounds : DataFrame
        Rows of the private federations, as in `rounds.parquet`.

    Returns
    -------
    Figure or None
        None when no round has a UAR.
    """
    columns = {"validation_uar": "validation", "test_uar": "test"}
    measured = {c: rounds[["round", c]].dropna() for c in columns if c in rounds}
    if all(curve.empty for curve in measured.values()):
        return None
    figure, axes = new_axes("communication round", "UAR (%)")
    for (column, curve), color in zip(measured.items(), PALETTE, strict=False):
        folds = 100 * curve.groupby("round")[column].agg(["mean", "min", "max"])
        # A single round draws no line, so it needs its marker.
        marker = "o" if len(folds) == 1 else None
        axes.plot(folds.index, folds["mean"], color=color, marker=marker, label=columns[column])
        axes.fill_between(folds.index, folds["min"], folds["max"], color=color, alpha=0.2, lw=0)
    axes.axhline(100 * chance_uar(results), color=INK, ls="--", lw=1, label="chance")
    if results["utility"]["best_round"] is not None:
        axes.axvline(results["utility"]["best_round"], color=INK, ls=":", lw=1, label="best round")
    axes.set_ylim(0, 100)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    count = rounds["fold"].nunique()
    folds_text = f"{count} fold{'s' * (count > 1)}"
    axes.set_title(f"{people(results['speakers'], results['clients'])}, {folds_text}")
    add_legend(figure, axes)
    return figure


@rc_context(STYLE)
def roc_figure(series: dict[str, list[AttackRecord]]) -> Figure | None:
    """ROC of each attack: solid at most leaked updates, dashed at one; None without curves."""
    curves = {label: [r for r in records if r["roc"]] for label, records in series.items()}
    if not any(curves.values()):
        return None
    figure, axes = new_axes(
        "false positive rate (share, 0 to 1)", "true positive rate (share, 0 to 1)"
    )
    for label, (color, marker) in _looks(series).items():
        if not curves[label]:
            continue
        most, one = curves[label][-1], at_one(curves[label])
        name = f"{label} ({updates(most)})"
        axes.plot(*_roc(most), color=color, marker=marker, ms=4, markevery=0.2, label=name)
        if one and one is not most:
            axes.plot(*_roc(one), color=color, ls="--", lw=1)
    axes.plot([0, 1], [0, 1], color=INK, ls=":", lw=1, label="chance")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), title=victims(series))
    add_legend(figure, axes)
    return figure


@rc_context(STYLE)
def leakage_figure(series: dict[str, list[AttackRecord]]) -> Figure | None:
    """AUC over leaked updates with 95 % intervals; None when no attack has an AUC."""
    scored = {k: [r for r in records if r["auc"] is not None] for k, records in series.items()}
    scored = {label: records for label, records in scored.items() if records}
    if not scored:
        return None
    figure, axes = new_axes("leaked updates of a client (count)", "AUC (0.5 = guessing)")
    ticks = sorted({(leaked_order(r), r["leaked_updates"]) for rs in scored.values() for r in rs})
    places = {leaked: place for place, (_, leaked) in enumerate(ticks)}
    looks = _looks(series)
    for index, (label, records) in enumerate(scored.items()):
        color, marker = looks[label]
        # Side by side, so that intervals at the same count stay apart.
        shift = min(0.1, 0.7 / len(scored)) * (index - (len(scored) - 1) / 2)
        at = [places[record["leaked_updates"]] + shift for record in records]
        axes.plot(at, [r["auc"] for r in records], color=color, marker=marker, ms=5, label=label)
        for place, record in zip(at, records, strict=True):
            if record["ci95_auc"]:
                axes.vlines(place, *record["ci95_auc"], color=color, lw=1.5, alpha=0.7)
    axes.axhline(CHANCE_AUC, color=INK, ls="--", lw=1, label="chance")
    axes.set_xticks(range(len(ticks)), [str(leaked) for _, leaked in ticks])
    axes.set(xlim=(-0.5, len(ticks) - 0.5), title=victims(scored))
    axes.set_ylim(min(0.4, axes.get_ylim()[0]), 1.02)
    add_legend(figure, axes)
    return figure


@rc_context(STYLE)
def save_png(figure: Figure, path: Path) -> None:
    """Write a figure on white, for papers and slides."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=200, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


@rc_context(STYLE)
def inline_svg(figure: Figure) -> str:
    """Return a figure as an SVG element to stand in a page, in the page's own text colour."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    # HTML knows SVG without namespaces; group ids would repeat from figure to figure.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg[svg.index("<svg") :])
    return re.sub(r'<g id="[^"]*">', "<g>", svg).replace(INK, "currentColor")


def new_axes(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    """One plot of a size that stays readable on a phone."""
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.add_subplot(xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def add_legend(figure: Figure, axes: Axes) -> None:
    """Put the legend under the plot, where it hides no curve."""
    labels = axes.get_legend_handles_labels()[1]
    columns = min(4 if max(map(len, labels)) < 14 else 2, len(labels))
    figure.set_figheight(HEIGHT + LEGEND_ROW * -(-len(labels) // columns))
    figure.legend(loc="outside lower center", ncols=columns, fontsize=8)


def victims(series: dict[str, list[AttackRecord]]) -> str:
    """How many victims stand behind a figure of attacks."""
    records = [record for group in series.values() for record in group]
    return people(max(r["speakers"] for r in records), max(r["victims"] for r in records))


def people(speakers: int, clients: int) -> str:
    """Sample size as a figure states it."""
    return f"n = {speakers} speakers, {clients} clients"


def updates(attack: AttackRecord) -> str:
    """Number of leaked updates in words."""
    leaked = attack["leaked_updates"]
    return "1 update" if leaked == 1 else f"{leaked} updates"


def _looks(series: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Color and marker of each series, the same in every figure."""
    return dict(zip(series, zip(cycle(PALETTE), cycle(MARKERS), strict=False), strict=False))


def _roc(attack: AttackRecord) -> Iterable[list[float]]:
    return attack["roc"]["fpr"], attack["roc"]["tpr"]
