"""The figure of a sweep to point at: Bokeh draws it in the page, whose script filters it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd
from bokeh.layouts import column
from bokeh.models import BoxAnnotation, ColumnDataSource, FixedTicker, HoverTool, Range1d, Span
from bokeh.plotting import figure

from fedser.reports import figures
from fedser.reports.figures import GREY, INK
from fedser.reports.sweep.points import RunAxis, fold_uars, leaks, looks, run_axis, sample
from fedser.reports.wording import delta_text, interval, nominal_text
from fedser.results.files import Results
from fedser.server.privacy.statement import epsilon_text

SHAPES = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle",
    "v": "inverted_triangle",
    "P": "hex",
    "X": "star",
}
"""Bokeh's names of matplotlib's markers, or of others that can be hollow."""
SMALL, LARGE = 6, 10  # pixels, at one leaked update and at the most
HEIGHT = 320  # pixels of a panel
PANELS = {"uar": "test UAR (%)", "auc": "AUC (0.5 = guessing)"}
"""Label of the y axis."""
TOOLTIPS = [("run", "@label"), ("found", "@value"), ("guarantee", "@guarantee"), ("n", "@n")]


@dataclass(frozen=True)
class Dot:
    """One dot of a panel, and what is told of it.

    Attributes
    ----------
    run : int
        Which run it stands for.
    attack : str or None
        By whose filter it is shown; None: always.
    x, nominal : float
        Its place, and that of the nominal epsilon, NaN where there is none.
    y, low, high : float
        With the interval.
    line, configured : str or None, str
        Dots of one line are joined, at the mean of those that were configured alike; None: of
        no line.
    """

    run: int
    panel: str
    attack: str | None
    x: float
    nominal: float
    y: float
    low: float
    high: float
    size: int
    color: str
    marker: str
    line: str | None
    configured: str
    label: str
    value: str
    guarantee: str
    n: str


def sweep_plots(points: pd.DataFrame, read: Sequence[Results | str]) -> dict[str, Any]:
    """Return a figure of two panels for each corpus: UAR, and AUC, over the real epsilon.

    Parameters
    ----------
    points, read : DataFrame, list of dict or str
        As of `fedser.reports.sweep.points.sweep_points`, with one row or more.
    """
    axis = run_axis(points)
    marks = {mechanism: (color, SHAPES[mark]) for mechanism, color, mark in looks(points)}
    drawn = {}
    for corpus, rows in points.groupby("corpus", sort=False):
        dots = [
            Dot(**_about(int(str(number)), row, axis, marks), **own)
            for number, row in rows.iterrows()
            for own in _measured(read[int(str(number))])
        ]
        drawn[str(corpus)] = _figure(rows, dots, axis)
    return drawn


def _about(
    number: int, row: "pd.Series[Any]", axis: RunAxis, marks: Mapping[str, tuple[str, str]]
) -> dict[str, Any]:
    """What all the dots of one run share."""
    mechanism, real, nominal = row["mechanism"], row["real"], row["nominal"]
    color, marker = marks[mechanism]
    guarantee = f"{mechanism}: no guarantee"
    if not math.isnan(real):
        delta = delta_text(row["delta"])
        guarantee = f"{mechanism}: real ε {epsilon_text(real)} at δ {delta}, one {row['unit']}"
    if not math.isnan(nominal):
        guarantee += f"; nominal ε {nominal_text(nominal)}"
    return {
        "run": number,
        "x": float(axis.places[number]),
        "nominal": nominal,
        "color": color,
        "marker": marker,
        "line": None if math.isnan(real) else f"{mechanism} {row['series']}",
        "configured": row["configured"],
        "label": row["label"],
        "guarantee": guarantee,
    }


def _measured(results: Results | str) -> Iterator[dict[str, Any]]:
    """Yield what one run found: its UAR, and each attack's AUC at one and at most updates."""
    assert isinstance(results, dict)  # as every run has that is among the points
    uar, folds = results["utility"]["uar"], fold_uars(results)
    if uar is not None:
        yield {
            "panel": "uar",
            "attack": None,
            "y": 100 * uar,
            "low": min(folds, default=100 * uar),
            "high": max(folds, default=100 * uar),
            "size": LARGE,
            "value": f"test UAR {100 * uar:.1f} %, {_spread(folds)}",
            "n": f"{results['speakers']} speakers, {results['clients']} clients",
        }
    for attacked, size in zip(leaks(results), (SMALL, LARGE), strict=True):
        for name, attack in attacked.items():
            low, high = attack["ci95_auc"] or (attack["auc"], attack["auc"])
            yield {
                "panel": "auc",
                "attack": name,
                "y": attack["auc"],
                "low": low,
                "high": high,
                "size": size,
                "value": f"AUC {attack['auc']:.3f} ({interval(attack)}): {attack['name']}, "
                f"{attack['attribute']} from {figures.updates(attack)}",
                "n": f"{attack['speakers']} speakers, {attack['victims']} clients attacked",
            }


def _spread(folds: Sequence[float]) -> str:
    if len(folds) < 2:
        return f"{len(folds)} fold"
    return f"{len(folds)} folds from {min(folds):.1f} to {max(folds):.1f} %"


def _figure(rows: pd.DataFrame, dots: Sequence[Dot], axis: RunAxis) -> Any:
    """Draw the panels of a corpus, one above the other over one x axis."""
    x_range = Range1d(*(axis.limits or (-0.5, len(axis.ticks) - 0.5)))
    title = f"{rows['corpus'].iloc[0]}: {sample(rows)}"
    chances = {"uar": sorted(set(rows["chance"])), "auc": [figures.CHANCE_AUC]}
    panels = []
    for name, label in PANELS.items():
        of_panel = [dot for dot in dots if dot.panel == name]
        panel = figure(
            title=title if name == "uar" else None,
            x_axis_type="log" if axis.limits else "linear",
            x_range=x_range,
            y_range=_y_range(name, of_panel),
            x_axis_label=axis.label,
            y_axis_label=label,
            height=HEIGHT,
            sizing_mode="stretch_width",
            tools="pan,wheel_zoom,box_zoom,reset,save",
            active_scroll=None,
            toolbar_location="above",
        )
        panel.toolbar.logo, panel.toolbar.autohide = None, True
        panel.xaxis.ticker = FixedTicker(ticks=list(axis.ticks))
        panel.xaxis.major_label_overrides = dict(axis.ticks)
        panel.xaxis.major_label_orientation = 0.0 if axis.limits else 0.5
        panel.yaxis.minor_tick_line_color = None
        panel.grid.grid_line_alpha = 0.3
        if axis.edge:  # what stands there has no epsilon
            last = axis.places[axis.places != axis.edge].max()
            panel.add_layout(BoxAnnotation(left=math.sqrt(axis.edge * last), fill_color=GREY))
        for chance in chances[name]:  # of runs on other folds that of UAR may differ
            line = Span(location=chance, dimension="width", line_color=INK, line_dash="dotted")
            panel.add_layout(line)
        _draw(panel, name, of_panel)
        panels.append(panel)
    return column(*panels, sizing_mode="stretch_width")


def _y_range(panel: str, dots: Sequence[Dot]) -> Range1d:
    if panel == "uar":
        return Range1d(0, 1.05 * max((dot.high for dot in dots), default=95.0))
    return Range1d(min([0.4, *(dot.low for dot in dots)]) - 0.02, 1.02)


def _draw(panel: Any, name: str, dots: Sequence[Dot]) -> None:
    """Draw the sources `NAME-dots` and `NAME-lines`, which the page's script fills."""
    columns = {field.name: [getattr(dot, field.name) for dot in dots] for field in fields(Dot)}
    source = ColumnDataSource(columns, name=f"{name}-dots")
    empty: dict[str, list[Any]] = {"xs": [], "ys": [], "color": [], "dash": []}
    lines = ColumnDataSource(empty, name=f"{name}-lines")
    panel.segment("nominal", "y", "x", "y", source=source, color=GREY)
    panel.multi_line("xs", "ys", source=lines, color="color", line_dash="dash", line_width=1.3)
    panel.segment("x", "low", "x", "high", source=source, color="color", line_width=2, alpha=0.5)
    look = {"marker": "marker", "size": "size", "line_color": "color", "source": source}
    hollow = panel.scatter("nominal", "y", fill_color="white", **look)
    filled = panel.scatter("x", "y", fill_color="color", **look)
    panel.add_tools(HoverTool(renderers=[hollow, filled], tooltips=TOOLTIPS))
