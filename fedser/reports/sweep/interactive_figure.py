"""The interactive figure of a sweep: Bokeh draws it in the page, and `sweep.js` filters it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd
from bokeh.layouts import column
from bokeh.models import BoxAnnotation, ColumnDataSource, FixedTicker, HoverTool, Range1d, Span
from bokeh.plotting import figure

from fedser.reports.figures import GREY, INK
from fedser.reports.numbers import (
    auc_bounds,
    auc_text,
    fold_range,
    guarantee_text,
    interval_text,
    nominal_claim,
    percent,
    sample_text,
    updates_text,
)
from fedser.reports.sweep.epsilon_axis import RunAxis, run_axis
from fedser.reports.sweep.points import mechanism_styles, sample, scored_attacks
from fedser.results.attacks import CHANCE_AUC
from fedser.results.files import Results
from fedser.results.utility import fold_values

SHAPES = {
    "o": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle",
    "v": "inverted_triangle",
    "P": "hex",
    "X": "star",
}
"""Bokeh marker for each matplotlib marker. All of them can be drawn hollow."""
SMALL, LARGE = 6, 10  # pixels, at one and at the most leaked updates
HEIGHT = 320  # pixels per panel
PANELS = {"uar": "test UAR (%)", "auc": "AUC (0.5 = guessing)"}
"""Label of the y axis of each panel."""
TOOLTIPS = [("run", "@label"), ("found", "@value"), ("guarantee", "@guarantee"), ("n", "@n")]


@dataclass(frozen=True)
class Dot:
    """One dot of a panel, with the texts of its tooltip.

    Attributes
    ----------
    run : int
        Position of the run in the sweep.
    attack : str or None
        The dot is shown if this attack is chosen; None: always.
    x, nominal : float
        Place of the run, and its nominal epsilon or NaN.
    y, low, high : float
        Value and interval.
    line, configured : str or None, str
        Dots of one line are joined. A line runs through the mean of the dots with the same
        configured epsilon. None: the dot is on no line.
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
    """Draw one figure per corpus with two panels over the real epsilon: UAR and AUC.

    Parameters
    ----------
    points, read : DataFrame, list of dict or str
        As returned by `fedser.reports.sweep.points.sweep_points`, at least one row, and by
        `fedser.reports.sweep.read_runs.read_runs`.

    Returns
    -------
    dict of str to Bokeh column
        Keyed by corpus.
    """
    axis = run_axis(points)
    dots = sweep_dots(points, read, axis)
    return {
        str(corpus): _figure(rows, [dot for dot in dots if dot.run in rows.index], axis)
        for corpus, rows in points.groupby("corpus", sort=False)
    }


def sweep_dots(points: pd.DataFrame, read: Sequence[Results | str], axis: RunAxis) -> list[Dot]:
    """Return all dots: UAR of each run, and AUC of each attack at one and at most updates."""
    styles = {name: (color, SHAPES[mark]) for name, color, mark in mechanism_styles(points)}
    return [
        Dot(**_run_fields(int(str(number)), row, axis, styles), **measured)
        for number, row in points.iterrows()
        for measured in _measured_fields(read[int(str(number))])
    ]


def _run_fields(
    number: int, row: "pd.Series[Any]", axis: RunAxis, styles: Mapping[str, tuple[str, str]]
) -> dict[str, Any]:
    """Return the fields that all dots of a run share."""
    mechanism, real, nominal = row["mechanism"], row["real"], row["nominal"]
    color, marker = styles[mechanism]
    guarantee = f"{mechanism}: no guarantee"
    if not math.isnan(real):
        guarantee = f"{mechanism}: real {guarantee_text(real, row['delta'], row['unit'])}"
    if not math.isnan(nominal):
        guarantee += f"; {nominal_claim(nominal, None)}"
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


def _measured_fields(results: Results | str) -> Iterator[dict[str, Any]]:
    """Yield the other fields of each dot of a run."""
    assert isinstance(results, dict)  # points have only runs with results
    uar, folds = results["utility"]["uar"], fold_values(results)
    if uar is not None:
        yield {
            "panel": "uar",
            "attack": None,
            "y": 100 * uar,
            "low": 100 * min(folds, default=uar),
            "high": 100 * max(folds, default=uar),
            "size": LARGE,
            "value": f"test UAR {percent(uar)}, {fold_range(folds)}",
            "n": sample_text([results["speakers"]], [results["clients"]]),
        }
    for attacks, size in zip(scored_attacks(results), (SMALL, LARGE), strict=True):
        for name, attack in attacks.items():
            low, high = auc_bounds(attack)
            inferred = f"{attack['attribute']} from {updates_text(attack)}"
            sample_size = sample_text([attack["speakers"]], [attack["victims"]])
            yield {
                "panel": "auc",
                "attack": name,
                "y": attack["auc"],
                "low": attack["auc"] if low is None else low,
                "high": attack["auc"] if high is None else high,
                "size": size,
                "value": f"AUC {auc_text(attack['auc'])} ({interval_text(attack)}): "
                f"{attack['name']}, {inferred}",
                "n": f"{sample_size} attacked",
            }


def _figure(rows: pd.DataFrame, dots: Sequence[Dot], axis: RunAxis) -> Any:
    """Draw the panels of one corpus, one above the other with a common x axis."""
    x_range = Range1d(*(axis.limits or (-0.5, len(axis.ticks) - 0.5)))
    chances = {"uar": sorted(set(rows["chance"])), "auc": [CHANCE_AUC]}
    panels = []
    for name, label in PANELS.items():
        of_panel = [dot for dot in dots if dot.panel == name]
        panel = _empty_panel(axis, x_range, _y_range(name, of_panel), label)
        if name == "uar":
            panel.title.text = f"{rows['corpus'].iloc[0]}: {sample(rows)}"
        for chance in chances[name]:  # runs on other folds may have another UAR of guessing
            line = Span(location=chance, dimension="width", line_color=INK, line_dash="dotted")
            panel.add_layout(line)
        _draw(panel, name, of_panel)
        panels.append(panel)
    return column(*panels, sizing_mode="stretch_width")


def _empty_panel(axis: RunAxis, x_range: Range1d, y_range: Range1d, label: str) -> Any:
    """Return a panel with its axes, and a grey box behind the runs without a guarantee."""
    panel = figure(
        x_axis_type="log" if axis.limits else "linear",
        x_range=x_range,
        y_range=y_range,
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
    if axis.edge:
        last = axis.places[axis.places != axis.edge].max()
        panel.add_layout(BoxAnnotation(left=math.sqrt(axis.edge * last), fill_color=GREY))
    return panel


def _y_range(panel: str, dots: Sequence[Dot]) -> Range1d:
    if panel == "uar":
        return Range1d(0, 1.05 * max((dot.high for dot in dots), default=95.0))
    return Range1d(min([0.4, *(dot.low for dot in dots)]) - 0.02, 1.02)


def _draw(panel: Any, name: str, dots: Sequence[Dot]) -> None:
    """Draw the sources `NAME-dots` and `NAME-lines`; `sweep.js` fills them."""
    columns = {field.name: [getattr(dot, field.name) for dot in dots] for field in fields(Dot)}
    source = ColumnDataSource(columns, name=f"{name}-dots")
    empty: dict[str, list[Any]] = {"xs": [], "ys": [], "color": [], "dash": []}
    lines = ColumnDataSource(empty, name=f"{name}-lines")
    panel.segment("nominal", "y", "x", "y", source=source, color=GREY)
    panel.multi_line("xs", "ys", source=lines, color="color", line_dash="dash", line_width=1.3)
    panel.segment("x", "low", "x", "high", source=source, color="color", line_width=2, alpha=0.5)
    style = {"marker": "marker", "size": "size", "line_color": "color", "source": source}
    hollow = panel.scatter("nominal", "y", fill_color="white", **style)
    filled = panel.scatter("x", "y", fill_color="color", **style)
    panel.add_tools(HoverTool(renderers=[hollow, filled], tooltips=TOOLTIPS))
