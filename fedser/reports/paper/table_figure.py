"""The figure of a table: two rows of panels, one column of panels per value of the facet."""

from collections.abc import Iterator
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
from fedser.reports.numbers import sample_text
from fedser.reports.paper.layouts import Layout
from fedser.results.attacks import CHANCE_AUC

PANEL_WIDTH, PANEL_HEIGHT, MARGIN = 2.3, 2.3, 1.0  # inches
MINIMUM_WIDTH = 6.4
AXES = {
    "layer": "layer attacked",
    "leaked_updates": "leaked updates (count)",
    "dropout": "dropout (share of units)",
    "privacy": "mechanism, nominal ε",
}
"""Label of the x axis."""
GREY = "#6e7781"
PUBLISHED_MARKERS = "<>dX*P"
STEP, SPREAD = 0.11, 0.7
"""Distance of series that stand side by side; largest share of a tick's place for all of them."""


@dataclass(frozen=True)
class Series:
    """One attack on one corpus, over all panels: its rows, style and place beside each tick."""

    label: str
    rows: pd.DataFrame
    published: bool
    style: dict[str, Any]
    shift: float

    @property
    def face(self) -> dict[str, Any]:
        """Style of a hollow marker for published series."""
        return {"mfc": "white"} if self.published else {}


@dataclass(frozen=True)
class Panels:
    """What all panels share: the layout, its ticks, and the style of lines."""

    layout: Layout
    ticks: list[Any]

    @property
    def fixed(self) -> bool:
        """Whether UAR at a fixed threshold is drawn."""
        return "uar_fixed" in self.layout.metrics

    @property
    def utility(self) -> bool:
        """Whether the figure is of emotion recognition."""
        return "uar" in self.layout.metrics

    @property
    def line(self) -> str:
        """Line style; layers are no scale, so their points are not joined."""
        return "none" if self.layout.x == "layer" else "-"


@rc_context(figures.STYLE)
def table_figure(rows: pd.DataFrame, keys: list[str], layout: Layout) -> Figure:
    """Draw a table: one series per attack and corpus, published series in grey.

    For inference, UAR is above and AUC is below; for emotion recognition, UAR and accuracy.

    Parameters
    ----------
    rows : DataFrame
        Ours and published. The columns that name a line are ordered categories.
    keys : list of str
        Columns that name a line of the table.
    layout : Layout
        Layout of the table.
    """
    panels, ticks = (list(rows[column].cat.categories) for column in (layout.facet, layout.x))
    series = list(_series(rows, [key for key in keys if key not in (layout.facet, layout.x)]))
    view = Panels(layout, ticks)
    figure = Figure(layout="constrained")
    grid = figure.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False)
    for (upper, lower), panel in zip(grid.T, panels, strict=True):
        upper.set_title(f"{layout.facet} {panel}")
        for one in series:
            part = one.rows[one.rows[layout.facet] == panel].sort_values(layout.x)
            _draw_series(upper, lower, part, one, view)
        _draw_guessing(upper, lower, rows, view)
        lower.set_xticks(range(len(ticks)), [str(tick) for tick in ticks])
        lower.set(xlim=(-0.5, len(ticks) - 0.5), xlabel=AXES[layout.x])
    _label(grid[:, 0], view)
    ours = rows[rows["origin"] == "ours"]
    sample = sample_text(ours["speakers"].dropna(), ours["victims"].dropna())
    bars = "bars: lowest to highest fold" if view.utility else "intervals 95 %"
    figure.suptitle(f"ours: n = {sample}; {bars}", fontsize=9)
    rings = "auc_against_cnn" in rows and bool((rows["auc_against_cnn"] < 0).any())
    _add_legend(figure, len(panels), _handles(series, view, rings))
    return figure


def _series(rows: pd.DataFrame, keys: list[str]) -> Iterator[Series]:
    """Split the rows into series; a series has one style in all panels."""
    names = ["origin", *dict.fromkeys(["attack", *keys])]
    groups = list(rows.groupby(names, observed=True, sort=True))
    ours = [values for values, _ in groups if values[0] == "ours"]
    styles = dict(zip(ours, zip(cycle(figures.PALETTE), cycle(figures.MARKERS)), strict=False))
    grey = cycle(PUBLISHED_MARKERS)
    step = min(STEP, SPREAD / len(groups))
    for place, (values, group) in enumerate(groups):
        color, marker = styles.get(values) or (GREY, next(grey))
        yield Series(
            label=", ".join(str(value) for value in values[1:] if value != ""),
            rows=group,
            published=values not in styles,
            style={"color": color, "marker": marker},
            shift=step * (place - (len(groups) - 1) / 2),
        )


def _draw_series(upper: Axes, lower: Axes, part: pd.DataFrame, one: Series, view: Panels) -> None:
    """Draw the part of a series that belongs to one column of panels."""
    x = part[view.layout.x].cat.codes.to_numpy() + one.shift
    if view.utility:
        _draw_share(upper, x, part, one, "uar")
        _draw_share(lower, x, part, one, "accuracy")
        return
    if view.fixed:
        style = view.line if one.published or view.line == "none" else "--"
        values = 100 * part["uar_fixed"].astype(float)
        upper.plot(x, values, ls=style, lw=0.8, ms=4.5, mfc="white", **one.style)
    if not one.published:  # the study gives neither UAR at a calibrated threshold nor AUC
        values = 100 * part["uar_calibrated"].astype(float)
        upper.plot(x, values, ls=view.line, lw=1, ms=4.5, **one.style)
        _draw_auc(lower, x, part, one, view.line)


def _draw_share(
    axes: Axes, x: npt.NDArray[Any], part: pd.DataFrame, one: Series, metric: str
) -> None:
    """Draw a share in per cent, with the lowest and the highest fold."""
    mean, low, high = (100 * part[metric + end].to_numpy(float) for end in ("", "_low", "_high"))
    axes.plot(x, mean, lw=1, ms=4.5, **one.style, **one.face)
    axes.vlines(x, low, high, color=one.style["color"], lw=1.3, alpha=0.7)


def _draw_auc(axes: Axes, x: npt.NDArray[Any], part: pd.DataFrame, one: Series, line: str) -> None:
    """Draw AUC with its interval, and a ring if the best of ours is below the CNN."""
    auc, low, high = (part[name].to_numpy(float) for name in ("auc", "auc_low", "auc_high"))
    axes.plot(x, auc, ls=line, lw=1, ms=4.5, **one.style)
    axes.vlines(x, low, high, color=one.style["color"], lw=1.3, alpha=0.7)
    if "auc_against_cnn" in part:
        below = part["auc_against_cnn"].to_numpy(float) < 0
        axes.plot(x[below], auc[below], ls="none", marker="o", ms=10, mfc="none", mec=figures.INK)


def _draw_guessing(upper: Axes, lower: Axes, rows: pd.DataFrame, view: Panels) -> None:
    """Draw dotted lines at the figures of guessing; accuracy has none."""
    for guessing in rows["chance_uar"].dropna().unique() if view.utility else [CHANCE_AUC]:
        upper.axhline(100 * guessing, color=figures.INK, ls=":", lw=1)
    if not view.utility:
        lower.axhline(CHANCE_AUC, color=figures.INK, ls=":", lw=1)


def _label(panels: npt.NDArray[Any], view: Panels) -> None:
    """Label the y axes of the upper and the lower panel at the left, and set their limits."""
    upper, lower = panels
    if view.utility:
        upper.set(ylabel="UAR (%, dotted = guessing)", ylim=(0, 102))
        lower.set(ylabel="accuracy (%)", ylim=(0, 102))
    else:
        upper.set(ylabel="UAR (%, 50 = guessing)", ylim=(min(40, upper.get_ylim()[0]), 102))
        lower.set(ylabel="AUC (0.5 = guessing)", ylim=(min(0.4, lower.get_ylim()[0]), 1.02))


def _add_legend(figure: Figure, panels: int, handles: list[Line2D]) -> None:
    """Put the legend below the panels, and make the figure large enough for both."""
    width = max(MINIMUM_WIDTH, MARGIN + PANEL_WIDTH * panels)
    columns = 2 if width < 8 else 4
    lines = -(-len(handles) // columns)
    figure.set_size_inches(width, 2 * PANEL_HEIGHT + MARGIN + figures.LEGEND_ROW * lines)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8)


def _handles(series: list[Series], view: Panels, rings: bool) -> list[Line2D]:
    handles = [
        Line2D([], [], **one.style, **one.face, ls=view.line, ms=4.5, label=one.label)
        for one in series
    ]
    if view.fixed:
        style: dict[str, Any] = {"color": GREY, "marker": "o", "ms": 4.5, "ls": "none"}
        handles.append(Line2D([], [], **style, label="filled: calibrated threshold, or AUC"))
        handles.append(Line2D([], [], **style, mfc="white", label="hollow: fixed threshold"))
    if rings:
        ring: dict[str, Any] = {"marker": "o", "ms": 10, "mfc": "none", "mec": figures.INK}
        handles.append(Line2D([], [], ls="none", **ring, label="best of ours, below cnn"))
    handles.append(Line2D([], [], color=figures.INK, ls=":", lw=1, label="guessing"))
    return handles
