"""The text grid of a table: which columns name a line, their order, and the text of each cell."""

from typing import Any

import pandas as pd

from fedser.reports.numbers import auc_with_interval, percent_with_range
from fedser.reports.paper import against_cnn, published
from fedser.reports.paper.differences import DIFFERENCES
from fedser.reports.paper.layouts import METRICS, Layout
from fedser.reports.paper.table_rows import PLACE
from fedser.results.attacks import leaked_order

DIFFERS = "differs from the study in"
SOURCE = "source"
"""Heading of the column of attacks in the utility table, which has no attacks."""
NAMES = {*PLACE, SOURCE, "metric", against_cnn.BEST, DIFFERS} - {"dropout", "leaked_updates"}
"""Columns of the grid that hold words; the other columns hold figures."""
PUBLISHED_METRICS = ("uar_fixed", "uar", "accuracy")
LAYERS = ("first", "second", "last", "all")
LAST_ATTACKS = ("fusion", "cnn")
SWEPT = ("features", "algorithm", "privacy")
"""Columns that keep the order of our runs."""


def ordered(rows: pd.DataFrame, ours: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with ordered categories in the columns that name a line.

    The order is by number or name for some columns, and by first appearance for the others.
    """
    orders: dict[str, Any] = {
        "layer": lambda layer: LAYERS.index(layer) if layer in LAYERS else len(LAYERS),
        "leaked_updates": lambda leaked: leaked_order({"leaked_updates": leaked}),
        "dropout": float,
        "privacy": _weakest_first,
        "private_corpus": lambda name: (*published.CORPORA, name).index(name),
        "attack": lambda attack: [attack.startswith(last) for last in reversed(LAST_ATTACKS)],
    }
    result = rows.copy()
    for column in (name for name in PLACE if rows[name].notna().any()):
        first = [*ours[column], *rows[column]] if column in SWEPT else rows[column]
        values = sorted(dict.fromkeys(first), key=orders.get(column, lambda value: 0))  # stable
        result[column] = pd.Categorical(rows[column], categories=values, ordered=True)
    return result


def _weakest_first(privacy: str) -> tuple[str, float]:
    """Return a sort key: "none" first, then each mechanism from the largest epsilon down."""
    mechanism, _, epsilon = privacy.partition(" ")
    return ("" if mechanism == "none" else mechanism, -float(epsilon or "inf"))


def line_keys(rows: pd.DataFrame, layout: Layout) -> list[str]:
    """Return the columns that name a line of the grid: the columns in which rows differ."""
    shown = {"attack", layout.facet} - {layout.across}
    if "published" in set(rows["origin"]):
        shown.add("private_corpus")
    shown |= {key for key in PLACE if rows[key].nunique() > 1} - {layout.across}
    ours = rows[rows["origin"] == "ours"]
    attackers = ours.groupby("private_corpus", observed=True)["shadow_corpora"]
    if (attackers.nunique() < 2).all():  # a footnote names the shadow corpora
        shown -= {"shadow_corpora"}
    if layout.across == "attack":  # attacks on several layers stand in one line
        shown -= {"layer", "shadow_corpora"}
    order = [layout.facet, layout.x, "private_corpus", "shadow_corpora", *PLACE]
    return [key for key in dict.fromkeys(order) if key in shown]


def text_grid(rows: pd.DataFrame, keys: list[str], layout: Layout) -> pd.DataFrame:
    """Return the texts of the table, one line per metric and per combination of `keys`."""
    cells = pd.concat([_cells(rows, metric) for metric in layout.metrics])
    cells["metric"] = pd.Categorical(cells["metric"], layout.metrics, ordered=True)
    line = [*keys, "metric"]
    grid = cells.pivot_table(
        index=line, columns=layout.across, values="text", aggfunc="first", observed=True
    ).fillna("")
    grid.columns = pd.Index(map(str, grid.columns))
    if "best_of_ours" in cells:
        grid = grid.join(against_cnn.comparison_texts(cells, line)).fillna("")
    # A line may hold several attacks: it differs in everything in which one of them differs.
    found = cells.groupby(line, observed=True)["differs"].agg(", ".join)
    grid[DIFFERS] = found.map(
        lambda names: ", ".join(name for name in DIFFERENCES if name in names.split(", "))
    )
    grid = grid.reset_index()
    grid = grid.assign(metric=grid["metric"].map(METRICS).astype(str))
    return grid.rename(columns={"attack": SOURCE} if "uar" in layout.metrics else {})


def _cells(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the rows with the text of one metric; the study's attack has only one metric."""
    both = metric in PUBLISHED_METRICS
    shown = rows if both else rows[rows["origin"] == "ours"]
    texts = [_text(row, metric) for row in shown.to_dict("records")]
    more = "" if both else ", metric"
    return shown.assign(metric=metric, text=texts, differs=shown["differs"] + more)


def _text(row: dict[Any, Any], metric: str) -> str:
    if pd.isna(row[metric]):
        return ""
    form = auc_with_interval if metric == "auc" else percent_with_range
    return form(row[metric], row.get(f"{metric}_low"), row.get(f"{metric}_high"))


def headings(grid: pd.DataFrame) -> list[str]:
    """Return the headings of the grid."""
    return [str(column).replace("_", " ") for column in grid]


def grid_differences(grid: pd.DataFrame) -> list[str]:
    """Return all differences that the lines name, in the order of DIFFERENCES."""
    found = set(", ".join(grid[DIFFERS]).split(", "))
    return [name for name in DIFFERENCES if name in found]
