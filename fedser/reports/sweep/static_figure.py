"""The figure `sweep.png`, for papers and slides."""

from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedser.reports import figures
from fedser.reports.figures import GREY
from fedser.reports.sweep.epsilon_axis import RunAxis, run_axis
from fedser.reports.sweep.points import mechanism_styles, sample
from fedser.results.attacks import CHANCE_AUC

# The marker is small at one leaked update and large at the most leaked updates.
SMALL, LARGE = 4.0, 7.0
WIDTH, HEIGHT = 7.6, 7.0  # inches per corpus


@rc_context(figures.STYLE)
def sweep_figure(points: pd.DataFrame) -> Figure:
    """Draw test UAR above and the AUC of the strongest attack below, one column per corpus.

    Parameters
    ----------
    points : DataFrame
        As returned by `fedser.reports.sweep.points.sweep_points`, at least one row.
    """
    corpora = points["corpus"].unique()
    figure = Figure(figsize=(WIDTH * len(corpora), HEIGHT), layout="constrained")
    panels = figure.subplots(2, len(corpora), sharex=True, sharey="row", squeeze=False)
    axis = run_axis(points)
    points = points.assign(place=axis.places)
    for (upper, lower), corpus in zip(panels.T, corpora, strict=True):
        of_corpus = points[points["corpus"] == corpus]
        _draw(upper, lower, of_corpus, points)
        _set_axis(lower, axis)
        title = sample(of_corpus)
        upper.set_title(title if len(corpora) == 1 else f"{corpus}: {title}")
        # The guarantee may be against somebody who sees less than the attacks.
        lower.set_title("attacks read each update as the server receives it")
    upper, lower = panels[:, 0]
    upper.set(ylabel="test UAR (%)")
    upper.set_ylim(0, 1.03 * upper.get_ylim()[1])
    lower.set(ylabel="AUC of the strongest attack\n(0.5 = guessing)")
    lower.set_ylim(min(0.4, lower.get_ylim()[0]), 1.02)
    nominal = bool(points["nominal"].notna().any())
    handles = [*_mechanism_handles(points), *_common_handles(nominal)]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _draw(upper: Axes, lower: Axes, of_corpus: pd.DataFrame, points: pd.DataFrame) -> None:
    """Draw one corpus; a mechanism has the same style for every corpus."""
    for mechanism, color, marker in mechanism_styles(points):
        group = of_corpus[of_corpus["mechanism"] == mechanism]
        style: dict[str, Any] = {"color": color, "marker": marker}
        _plot(upper, group, "uar", ls="-", ms=LARGE, **style)
        _plot(lower, group, "most", ls="-", ms=LARGE, **style)
        _plot(lower, group, "one", ls="--", ms=SMALL, **style)
    for chance in of_corpus["chance"].unique():  # runs on other folds may have another one
        upper.axhline(chance, color=figures.INK, ls=":", lw=1)
    lower.axhline(CHANCE_AUC, color=figures.INK, ls=":", lw=1)


def _set_axis(axes: Axes, axis: RunAxis) -> None:
    by_name = axis.limits is None
    if axis.limits:
        axes.set_xscale("log")
        axes.set_xlim(*axis.limits)
    rotated: dict[str, Any] = {"rotation": 30, "ha": "right"} if by_name else {}
    axes.set_xticks(list(axis.ticks), list(axis.ticks.values()), **rotated)
    axes.minorticks_off()
    axes.set_xlabel(axis.label)


def _plot(axes: Axes, group: pd.DataFrame, column: str, ls: str, ms: float, **style: Any) -> None:
    """Draw one point per run, a tie to its nominal epsilon, and lines through the means."""
    measured = group.dropna(subset=column)
    nominal = measured.dropna(subset="nominal")
    for _, run in nominal.iterrows():
        axes.plot([run["nominal"], run["place"]], [run[column]] * 2, color=GREY, lw=0.7, zorder=1)
    axes.plot(nominal["nominal"], nominal[column], ls="", ms=ms, mfc="white", **style)
    # No line leads from an epsilon to a run without a guarantee.
    for _, series in measured.dropna(subset="real").groupby("series"):
        means = series.groupby("configured")[["place", column]].mean().sort_values("place")
        axes.plot(means["place"], means[column], ls=ls, lw=1.2, color=style["color"])
    bounds = measured[f"{column}_low"], measured[f"{column}_high"]
    axes.vlines(measured["place"], *bounds, color=style["color"], lw=1.2, alpha=0.5)
    axes.plot(measured["place"], measured[column], ls="", ms=ms, **style)


def _mechanism_handles(points: pd.DataFrame) -> list[Line2D]:
    """Return the legend of the mechanisms, with the unit that each protects."""
    handles = []
    for mechanism, color, marker in mechanism_styles(points):
        units = points.loc[points["mechanism"] == mechanism, "unit"].dropna().unique()
        name = f"{mechanism} ({', '.join(units)})" if len(units) else mechanism
        handles.append(Line2D([], [], color=color, marker=marker, ms=LARGE, label=name))
    return handles


def _common_handles(nominal: bool) -> list[Line2D]:
    """Return the legend of the signs that all mechanisms share."""
    style: dict[str, Any] = {"color": GREY, "marker": "o"}
    bar: dict[str, Any] = {"color": GREY, "ls": "", "marker": "|", "ms": 9}
    handles = [
        Line2D([], [], **style, ms=LARGE, label="most leaked updates"),
        Line2D([], [], **style, ms=SMALL, ls="--", label="one leaked update"),
        Line2D([], [], color=figures.INK, ls=":", lw=1, label="chance"),
        Line2D([], [], **bar, label="folds (UAR), 95 % interval (AUC)"),
    ]
    if nominal:
        handles.append(Line2D([], [], **style, ms=LARGE, ls="", label="filled: real ε"))
        handles.append(Line2D([], [], **style, ms=LARGE, mfc="white", label="hollow: nominal ε"))
    return handles
