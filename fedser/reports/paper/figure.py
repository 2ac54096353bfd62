"""The figure of a sweep's table: two figures of merit, a panel for each value of one column."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy.typing as npt
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedser.reports import figures
from fedser.reports.figures import CHANCE_AUC

PANEL_WIDTH, PANEL_HEIGHT, MARGIN = 2.3, 2.3, 1.0  # inches
MINIMUM_WIDTH = 6.4
AXES = {
    "layer": "layer attacked",
    "leaked_updates": "leaked updates (count)",
    "dropout": "dropout (share of units)",
    "privacy": "mechanism, nominal ε",
}
GREY = "#6e7781"
PUBLISHED_MARKERS = "<>dX*P"
STEP, SPREAD = 0.11, 0.7
"""Distance of series that stand side by side, and the most of a tick's place they take."""


@dataclass(frozen=True)
class Series:
    """An attack on a corpus, over the panels: its records, its looks and its place."""

    label: str
    records: pd.DataFrame
    published: bool
    look: dict[str, Any]
    shift: float


@rc_context(figures.STYLE)
def table_figure(
    records: pd.DataFrame, keys: list[str], facet: str, x: str, metrics: Sequence[str]
) -> Figure:
    """Draw a table: a series for each attack and corpus, published ones in grey.

    Of inference there is UAR above and AUC below, of emotion recognition UAR and accuracy.

    Parameters
    ----------
    records : DataFrame
        Ours and published ones; what names a row is categorical, in order.
    keys : list of str
        Columns that name a row.
    facet, x : str
        Column with a panel for each value; column along the x axis.
    metrics : sequence of str
        What the table shows.
    """
    fixed, utility = "uar_fixed" in metrics, "uar" in metrics
    panels, ticks = (list(records[column].cat.categories) for column in (facet, x))
    series = list(_series(records, [key for key in keys if key not in (facet, x)]))
    line = "none" if x == "layer" else "-"  # layers are no scale
    width = max(MINIMUM_WIDTH, MARGIN + PANEL_WIDTH * len(panels))
    figure = Figure(layout="constrained")
    grid = figure.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False)
    for (upper, lower), panel in zip(grid.T, panels, strict=True):
        upper.set_title(f"{facet} {panel}")
        for one in series:
            part = one.records[one.records[facet] == panel].sort_values(x)
            at = part[x].cat.codes.to_numpy() + one.shift
            if utility:
                _draw_share(upper, at, part, one, "uar")
                _draw_share(lower, at, part, one, "accuracy")
                continue
            _draw_uar(upper, at, part, one, fixed, line)
            if not one.published:
                _draw_auc(lower, at, part, one, line)
        for guessing in records["chance_uar"].dropna().unique() if utility else [CHANCE_AUC]:
            upper.axhline(100 * guessing, color=figures.INK, ls=":", lw=1)
        if not utility:
            lower.axhline(CHANCE_AUC, color=figures.INK, ls=":", lw=1)
        lower.set_xticks(range(len(ticks)), [str(tick) for tick in ticks])
        lower.set(xlim=(-0.5, len(ticks) - 0.5), xlabel=AXES[x])
    upper, lower = grid[:, 0]
    if utility:
        upper.set(ylabel="UAR (%, dotted = guessing)", ylim=(0, 102))
        lower.set(ylabel="accuracy (%)", ylim=(0, 102))
    else:
        upper.set(ylabel="UAR (%, 50 = guessing)", ylim=(min(40, upper.get_ylim()[0]), 102))
        lower.set(ylabel="AUC (0.5 = guessing)", ylim=(min(0.4, lower.get_ylim()[0]), 1.02))
    bars = "bars: lowest to highest fold" if utility else "intervals 95 %"
    figure.suptitle(f"{_sample(records[records['origin'] == 'ours'])}; {bars}", fontsize=9)
    rings = "auc_against_cnn" in records and bool((records["auc_against_cnn"] < 0).any())
    handles = _legend(series, fixed, line, rings)
    columns = 2 if width < 8 else 4
    rows = -(-len(handles) // columns)
    figure.set_size_inches(width, 2 * PANEL_HEIGHT + MARGIN + figures.LEGEND_ROW * rows)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8)
    return figure


def _series(records: pd.DataFrame, keys: list[str]) -> Iterator[Series]:
    """Part the records into series, an attack in one colour whatever it is drawn over."""
    names = ["origin", *dict.fromkeys(["attack", *keys])]
    groups = list(records.groupby(names, observed=True, sort=True))
    ours = [values for values, _ in groups if values[0] == "ours"]
    looks = dict(zip(ours, zip(cycle(figures.PALETTE), cycle(figures.MARKERS)), strict=False))
    grey = cycle(PUBLISHED_MARKERS)
    step = min(STEP, SPREAD / len(groups))
    for place, (values, group) in enumerate(groups):
        color, marker = looks.get(values) or (GREY, next(grey))
        yield Series(
            label=", ".join(str(value) for value in values[1:] if value != ""),
            records=group,
            published=values not in looks,
            look={"color": color, "marker": marker},
            shift=step * (place - (len(groups) - 1) / 2),
        )


def _draw_uar(
    axes: Axes, at: npt.NDArray[Any], part: pd.DataFrame, one: Series, fixed: bool, line: str
) -> None:
    """Hollow markers are of a fixed threshold, filled ones of a calibrated one."""
    if fixed:
        style = line if one.published or line == "none" else "--"
        values = 100 * part["uar_fixed"].astype(float)
        axes.plot(at, values, ls=style, lw=0.8, ms=4.5, mfc="white", **one.look)
    if not one.published:
        axes.plot(at, 100 * part["uar_calibrated"].astype(float), ls=line, lw=1, ms=4.5, **one.look)


def _draw_share(
    axes: Axes, at: npt.NDArray[Any], part: pd.DataFrame, one: Series, metric: str
) -> None:
    """Draw a share in percent, ours with the lowest and the highest fold."""
    mean, low, high = (100 * part[metric + end].to_numpy(float) for end in ("", "_low", "_high"))
    face: dict[str, Any] = {"mfc": "white"} if one.published else {}
    axes.plot(at, mean, lw=1, ms=4.5, **one.look, **face)
    axes.vlines(at, low, high, color=one.look["color"], lw=1.3, alpha=0.7)


def _draw_auc(axes: Axes, at: npt.NDArray[Any], part: pd.DataFrame, one: Series, line: str) -> None:
    """AUC with its interval; a ring where the best of ours is below the CNN."""
    auc, low, high = (part[name].to_numpy(float) for name in ("auc", "auc_low", "auc_high"))
    axes.plot(at, auc, ls=line, lw=1, ms=4.5, **one.look)
    axes.vlines(at, low, high, color=one.look["color"], lw=1.3, alpha=0.7)
    if "auc_against_cnn" in part:
        below = part["auc_against_cnn"].to_numpy(float) < 0
        axes.plot(at[below], auc[below], ls="none", marker="o", ms=10, mfc="none", mec=figures.INK)


def _legend(series: list[Series], fixed: bool, line: str, rings: bool) -> list[Line2D]:
    handles = []
    for one in series:
        face: dict[str, Any] = {"mfc": "white"} if one.published else {}
        handles.append(Line2D([], [], **one.look, **face, ls=line, ms=4.5, label=one.label))
    if fixed:
        look: dict[str, Any] = {"color": GREY, "marker": "o", "ms": 4.5, "ls": "none"}
        handles.append(Line2D([], [], **look, label="filled: calibrated threshold, or AUC"))
        handles.append(Line2D([], [], **look, mfc="white", label="hollow: fixed threshold"))
    if rings:
        ring: dict[str, Any] = {"marker": "o", "ms": 10, "mfc": "none", "mec": figures.INK}
        handles.append(Line2D([], [], ls="none", **ring, label="best of ours, below cnn"))
    handles.append(Line2D([], [], color=figures.INK, ls=":", lw=1, label="guessing"))
    return handles


def _sample(ours: pd.DataFrame) -> str:
    """How many speakers and clients stand behind our figures."""
    spans = [_span(ours[column].dropna()) for column in ("speakers", "victims")]
    return f"ours: n = {spans[0]} speakers, {spans[1]} clients"


def _span(counts: "pd.Series[int]") -> str:
    low, high = counts.min(), counts.max()
    return str(low) if low == high else f"{low} to {high}"
