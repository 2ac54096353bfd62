"""The figures of one run: UAR over rounds, ROC curves, and AUC over leaked updates."""

from collections.abc import Iterable
from itertools import cycle

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedser.reports.figures import INK, MARKERS, PALETTE, STYLE, add_legend, new_axes
from fedser.reports.numbers import counted, sample_text, updates_text
from fedser.results.attacks import CHANCE_AUC, AttackRecord, at_one, leaked_order
from fedser.results.files import Results
from fedser.results.utility import chance_uar, reference_uars

CURVES = {"validation_uar": "validation", "test_uar": "test"}
"""Columns of ``rounds.parquet`` and their labels."""


@rc_context(STYLE)
def utility_figure(rounds: pd.DataFrame, results: Results) -> Figure | None:
    """Draw UAR over rounds: the mean over folds, and the range from the worst to the best fold.

    Parameters
    ----------
    rounds : DataFrame
        Rows of the private federations, as in `rounds.parquet`.

    Returns
    -------
    Figure or None
        None if no round has a UAR.
    """
    measured = {c: rounds[["round", c]].dropna() for c in CURVES if c in rounds}
    if all(curve.empty for curve in measured.values()):
        return None
    figure, axes = new_axes("communication round", "UAR (%)")
    for (column, curve), color in zip(measured.items(), PALETTE, strict=False):
        folds = 100 * curve.groupby("round")[column].agg(["mean", "min", "max"])
        # A line needs two rounds; a single round needs a marker.
        marker = "o" if len(folds) == 1 else None
        axes.plot(folds.index, folds["mean"], color=color, marker=marker, label=CURVES[column])
        axes.fill_between(folds.index, folds["min"], folds["max"], color=color, alpha=0.2, lw=0)
    axes.axhline(100 * chance_uar(results), color=INK, ls="--", lw=1, label="chance")
    for (label, uar), style in zip(
        reference_uars(results).items(), ("-.", (0, (5, 1))), strict=False
    ):
        axes.axhline(100 * uar, color=INK, ls=style, lw=1, label=label)
    if (tested := results["utility"]["best_round"]) is not None:
        axes.axvline(tested, color=INK, ls=":", lw=1, label="tested model")
    axes.set_ylim(0, 100)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    sample = sample_text([results["speakers"]], [results["clients"]])
    axes.set_title(f"n = {sample}, {counted(rounds['fold'].nunique(), 'fold')}")
    add_legend(figure, axes)
    return figure


@rc_context(STYLE)
def roc_figure(series: dict[str, list[AttackRecord]]) -> Figure | None:
    """Draw the ROC of each attack: solid at most leaked updates, dashed at one update.

    Returns
    -------
    Figure or None
        None if no attack has a ROC.
    """
    curves = {label: [r for r in records if r["roc"]] for label, records in series.items()}
    if not any(curves.values()):
        return None
    figure, axes = new_axes(
        "false positive rate (share, 0 to 1)", "true positive rate (share, 0 to 1)"
    )
    for label, (color, marker) in _styles(series).items():
        if not curves[label]:
            continue
        most, one = curves[label][-1], at_one(curves[label])
        name = f"{label} ({updates_text(most)})"
        axes.plot(*_roc(most), color=color, marker=marker, ms=4, markevery=0.2, label=name)
        if one and one is not most:
            axes.plot(*_roc(one), color=color, ls="--", lw=1)
    axes.plot([0, 1], [0, 1], color=INK, ls=":", lw=1, label="chance")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), title=_victims(series))
    add_legend(figure, axes)
    return figure


@rc_context(STYLE)
def leakage_figure(series: dict[str, list[AttackRecord]]) -> Figure | None:
    """Draw the AUC of each attack over leaked updates, with 95 % intervals.

    Returns
    -------
    Figure or None
        None if no attack has an AUC.
    """
    scored = {k: [r for r in records if r["auc"] is not None] for k, records in series.items()}
    scored = {label: records for label, records in scored.items() if records}
    if not scored:
        return None
    figure, axes = new_axes("leaked updates of a client (count)", "AUC (0.5 = guessing)")
    ticks = sorted({(leaked_order(r), r["leaked_updates"]) for rs in scored.values() for r in rs})
    places = {leaked: float(place) for place, (_, leaked) in enumerate(ticks)}
    styles = _styles(series)
    for index, (label, records) in enumerate(scored.items()):
        # Series stand side by side, so that intervals at the same count do not overlap.
        shift = min(0.1, 0.7 / len(scored)) * (index - (len(scored) - 1) / 2)
        shifted = [places[record["leaked_updates"]] + shift for record in records]
        _draw_aucs(axes, shifted, label, records, styles[label])
    axes.axhline(CHANCE_AUC, color=INK, ls="--", lw=1, label="chance")
    axes.set_xticks(range(len(ticks)), [str(leaked) for _, leaked in ticks])
    axes.set(xlim=(-0.5, len(ticks) - 0.5), title=_victims(scored))
    axes.set_ylim(min(0.4, axes.get_ylim()[0]), 1.02)
    add_legend(figure, axes)
    return figure


def _draw_aucs(
    axes: Axes, x: list[float], label: str, records: list[AttackRecord], style: tuple[str, str]
) -> None:
    color, marker = style
    axes.plot(x, [r["auc"] for r in records], color=color, marker=marker, ms=5, label=label)
    for place, record in zip(x, records, strict=True):
        if record["ci95_auc"]:
            axes.vlines(place, *record["ci95_auc"], color=color, lw=1.5, alpha=0.7)


def _victims(series: dict[str, list[AttackRecord]]) -> str:
    """Return the largest number of victims behind a figure of attacks."""
    records = [record for group in series.values() for record in group]
    speakers, clients = max(r["speakers"] for r in records), max(r["victims"] for r in records)
    return f"n = {sample_text([speakers], [clients])}"


def _styles(series: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return colour and marker of each series; they are the same in every figure."""
    return dict(zip(series, zip(cycle(PALETTE), cycle(MARKERS), strict=False), strict=False))


def _roc(attack: AttackRecord) -> Iterable[list[float]]:
    return attack["roc"]["fpr"], attack["roc"]["tpr"]
