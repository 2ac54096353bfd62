"""The table of a sweep beside the published one: `table.csv`, `table.md` and `table.png`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from fedser.common.files import write_text
from fedser.reports import figures
from fedser.reports.paper import comparison, published
from fedser.reports.paper.figure import table_figure
from fedser.reports.paper.page import write_page
from fedser.reports.paper.rows import DIFFERENCES, FIGURES, PLACE, sweep_records
from fedser.reports.paper.text import DIFFERS, PUBLISHED, SOURCE, explain, markdown, terminal_table
from fedser.reports.several_runs import statements
from fedser.reports.sweep.sweep import read_runs, runs_below
from fedser.results.attacks import leaked_order

METRICS = {
    "uar_fixed": "UAR fixed (%)",
    "uar_calibrated": "UAR calibrated (%)",
    "auc": "AUC",
    "uar": "UAR (%)",
    "accuracy": "accuracy (%)",
}
INFERENCE = ("uar_fixed", "uar_calibrated", "auc")
PUBLISHED_METRICS = ("uar_fixed", "uar", "accuracy")
LAYERS = ("first", "second", "last", "all")
LAST_ATTACKS = ("fusion", "cnn")
SWEPT = ("features", "algorithm", "privacy")
"""Columns whose values are in the order of our runs."""


@dataclass(frozen=True)
class Layout:
    """How records become a table.

    Attributes
    ----------
    title : str
        Stands above it, with the attribute put in.
    across, facet, x : str
        Columns of the records: whose values become columns, whose values part the rows and
        the panels of the figure, and what runs along the figure's x axis.
    beside : tuple of str
        Published figures are shown for those values of these columns that ours have.
    metrics : tuple of str
        Of METRICS, a row each.
    """

    title: str
    across: str
    facet: str
    x: str
    beside: tuple[str, ...] = ("features", "algorithm")
    metrics: tuple[str, ...] = INFERENCE


LAYOUTS = {
    "utility": Layout(
        *("emotion recognition by nominal epsilon", "privacy", "features", "privacy"),
        beside=("features", "algorithm", "privacy"),
        metrics=("uar", "accuracy"),
    ),
    "layers": Layout("{} inference by layer of the update", "layer", "algorithm", "layer"),
    "updates": Layout(
        *("{} inference by leaked updates", "leaked_updates", "privacy", "leaked_updates"),
        beside=("features", "privacy"),
    ),
    "dropout": Layout("{} inference by dropout of the model", "dropout", "algorithm", "dropout"),
    "comparison": Layout(
        *("{} inference, attacks side by side", "attack", "privacy", "leaked_updates"),
        metrics=("auc", "uar_calibrated"),
    ),
}
"""What the key `table` may be."""


def write_table(sweep_dir: Path, table: str, width: int = 120) -> Table | None:
    """Write `table.csv`, `.md`, `.png` and `.html` into the folder of a multirun.

    Parameters
    ----------
    sweep_dir : Path
        Folder whose subfolders are Hydra's run folders.
    table : str
        One of LAYOUTS.
    width : int
        Columns of the terminal.

    Returns
    -------
    Table or None
        The table for the terminal; None when the folder holds no run. `table.csv` has a row
        an attack record, ours and published, with figures from 0 to 1 as they are; there is
        no figure when every run failed.
    """
    layout = LAYOUTS[table]
    ours, problems = sweep_records(sweep_dir, table)
    if ours.empty and not problems:
        return None
    records = _ordered(_beside_published(ours, table, layout), ours)
    keys = _keys(records, layout)
    if table == "comparison":
        records = comparison.mark(records, [key for key in keys if key != "attack"])
    grid = _grid(records, keys, layout)
    attribute = "gender" if ours.empty else ours["attribute"].iloc[0]
    title = layout.title.format(attribute).capitalize()
    notes = explain(records, table, keys, problems)
    notes += statements([r for r in read_runs(runs_below(sweep_dir))[1] if isinstance(r, dict)])
    figure = None
    if ours[list(layout.metrics)].notna().any(axis=None):
        figure = table_figure(records, keys, layout.facet, layout.x, layout.metrics)
    write_text(sweep_dir / "table.csv", records.to_csv(index=False))
    write_text(sweep_dir / "table.md", markdown(title, grid, notes))
    if figure:
        figures.save_png(figure, sweep_dir / "table.png")
    write_page(sweep_dir, title, grid, notes, figure)
    return terminal_table(title, grid, notes, width)


def _beside_published(ours: pd.DataFrame, table: str, layout: Layout) -> pd.DataFrame:
    """Put the published figures above ours, those of what was swept."""
    mine = ours.assign(origin="ours")
    if table not in published.FILES:
        return mine
    theirs = published.read_published(table)
    if not set(ours["features"]) & {*published.FEATURES}:
        ours = ours.assign(features=published.EMOBASE)  # the nearest that there is
    if len(ours):
        for column in layout.beside:
            theirs = theirs[theirs[column].isin(ours[column])]
    attacked = table != "utility"
    shadows = {
        corpus: "+".join(other for other in published.CORPORA if other != corpus)
        for corpus in published.CORPORA
    }
    theirs = theirs.assign(
        origin="published",
        attack=PUBLISHED,
        name=published.ATTACK,
        attribute="gender",
        shadow_corpora=theirs["private_corpus"].map(shadows) if attacked else "",
        differs="",
    )
    both = pd.concat([theirs.astype(object), mine.astype(object)], ignore_index=True)
    return both[mine.columns].astype(dict.fromkeys(FIGURES, float))


def _ordered(records: pd.DataFrame, ours: pd.DataFrame) -> pd.DataFrame:
    """Give the columns that name a row their order: as counted, or as it first appears."""
    orders: dict[str, Any] = {
        "layer": lambda layer: LAYERS.index(layer) if layer in LAYERS else len(LAYERS),
        "leaked_updates": lambda leaked: leaked_order({"leaked_updates": leaked}),
        "dropout": float,
        "privacy": _weakest_first,
        "private_corpus": lambda name: (*published.CORPORA, name).index(name),
        "attack": lambda attack: [attack.startswith(last) for last in reversed(LAST_ATTACKS)],
    }
    ordered = records.copy()
    for column in (name for name in PLACE if records[name].notna().any()):
        first = [*ours[column], *records[column]] if column in SWEPT else records[column]
        values = sorted(dict.fromkeys(first), key=orders.get(column, lambda value: 0))  # stable
        ordered[column] = pd.Categorical(records[column], categories=values, ordered=True)
    return ordered


def _weakest_first(privacy: str) -> tuple[str, float]:
    """Sort key: none, then each mechanism from the largest epsilon to the smallest."""
    mechanism, _, epsilon = privacy.partition(" ")
    return ("" if mechanism == "none" else mechanism, -float(epsilon or "inf"))


def _keys(records: pd.DataFrame, layout: Layout) -> list[str]:
    """Columns that name a row of the table, in their order: those in which records differ."""
    shown = {"attack", layout.facet} - {layout.across}
    if "published" in set(records["origin"]):
        shown.add("private_corpus")
    shown |= {key for key in PLACE if records[key].nunique() > 1} - {layout.across}
    ours = records[records["origin"] == "ours"]
    attackers = ours.groupby("private_corpus", observed=True)["shadow_corpora"]
    if (attackers.nunique() < 2).all():  # the footnotes tell
        shown -= {"shadow_corpora"}
    if layout.across == "attack":  # side by side, whatever each of them reads and learns from
        shown -= {"layer", "shadow_corpora"}
    order = [layout.facet, layout.x, "private_corpus", "shadow_corpora", *PLACE]
    return [key for key in dict.fromkeys(order) if key in shown]


def _grid(records: pd.DataFrame, keys: list[str], layout: Layout) -> pd.DataFrame:
    """Texts of the table: a row a metric of what `keys` name."""
    cells = pd.concat([_cells(records, metric) for metric in layout.metrics])
    cells["metric"] = pd.Categorical(cells["metric"], layout.metrics, ordered=True)
    rows = [*keys, "metric"]
    grid = cells.pivot_table(
        index=rows, columns=layout.across, values="text", aggfunc="first", observed=True
    ).fillna("")
    grid.columns = pd.Index(map(str, grid.columns))
    if "best_of_ours" in cells:
        grid = grid.join(comparison.verdicts(cells, rows)).fillna("")
    # A row may hold several attacks: it differs in whatever one of them differs in.
    found = cells.groupby(rows, observed=True)["differs"].agg(", ".join)
    grid[DIFFERS] = found.map(
        lambda names: ", ".join(name for name in DIFFERENCES if name in names.split(", "))
    )
    grid = grid.reset_index()
    grid = grid.assign(metric=grid["metric"].map(METRICS).astype(str))
    return grid.rename(columns={"attack": SOURCE} if "uar" in layout.metrics else {})


def _cells(records: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Records as one metric shows them; of its attack the study gives UAR at a fixed threshold."""
    theirs = metric in PUBLISHED_METRICS
    shown = records if theirs else records[records["origin"] == "ours"]
    texts = [_text(record, metric) for record in shown.to_dict("records")]
    more = "" if theirs else ", metric"
    return shown.assign(metric=metric, text=texts, differs=shown["differs"] + more)


def _text(record: dict[Any, Any], metric: str) -> str:
    if pd.isna(record[metric]):
        return ""
    factor, digits = (1, 3) if metric == "auc" else (100, 1)
    values = [record[metric], *(record.get(metric + end) for end in ("_low", "_high"))]
    text, low, high = (f"{factor * v:.{digits}f}" if pd.notna(v) else "" for v in values)
    return f"{text} ({low}–{high})" if low else text
