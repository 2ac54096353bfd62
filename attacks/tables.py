"""The table of a sweep beside the published one: `table.csv`, `table.md` and `table.png`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from attacks import comparison, figures, published
from attacks.records import DIFFERENCES, FIGURES, PLACE, sweep_records
from attacks.results import leaked_order, write_atomically
from attacks.table_figure import table_figure
from attacks.table_text import DIFFERS, explain, markdown, terminal_table

METRICS = {
    "uar_fixed": "UAR fixed (%)",
    "uar_calibrated": "UAR calibrated (%)",
    "auc": "AUC",
}
LAYERS = ("first", "second", "last", "all")
LAST_ATTACKS = ("fusion", "cnn")
PUBLISHED_ATTACK = "published"


@dataclass(frozen=True)
class Layout:
    """How records become a table.

    Attributes
    ----------
    title : str
        Stands above it.
    across, facet, x : str
        Columns of the records: whose values become columns, whose values part the rows and
        the panels of the figure, and what runs along the figure's x axis.
    metrics : tuple of str
        Of METRICS, a row each.
    """

    title: str
    across: str
    facet: str
    x: str
    metrics: tuple[str, ...] = tuple(METRICS)


LAYOUTS = {
    "layers": Layout("inference by layer of the update", "layer", "algorithm", "layer"),
    "updates": Layout("inference by leaked updates", "leaked_updates", "privacy", "leaked_updates"),
    "dropout": Layout("inference by dropout of the model", "dropout", "algorithm", "dropout"),
    "comparison": Layout(
        *("inference, attacks side by side", "attack", "privacy", "leaked_updates"),
        metrics=("auc", "uar_calibrated"),
    ),
}
"""What the key `table` may be."""


def write_table(sweep_dir: Path, table: str, width: int = 120) -> Table | None:
    """Write `table.csv`, `table.md` and `table.png` into the folder of a multirun.

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
    records = _ordered(_beside_published(ours, table, layout.facet), ours, layout.facet)
    keys = _keys(records, layout)
    if table == "comparison":
        records = comparison.mark(records, [key for key in keys if key != "attack"])
    grid = _grid(records, keys, layout)
    attribute = "gender" if ours.empty else ours["attribute"].iloc[0]
    title = f"{attribute} {layout.title}".capitalize()
    notes = explain(records, table, keys, problems)
    write_atomically(sweep_dir / "table.csv", records.to_csv(index=False))
    write_atomically(sweep_dir / "table.md", markdown(title, grid, notes))
    if ours[list(METRICS)].notna().any(axis=None):
        drawn = table_figure(records, keys, layout.facet, layout.x, "uar_fixed" in layout.metrics)
        figures.save_png(drawn, sweep_dir / "table.png")
    return terminal_table(title, grid, notes, width)


def _beside_published(ours: pd.DataFrame, table: str, facet: str) -> pd.DataFrame:
    """Put the published figures above ours, those of what was swept."""
    mine = ours.assign(origin="ours")
    if table not in published.FILES:
        return mine
    theirs = published.read_published(table)
    if len(ours):
        theirs = theirs[theirs[facet].isin(ours[facet])]
    shadows = {
        corpus: "+".join(other for other in published.CORPORA if other != corpus)
        for corpus in published.CORPORA
    }
    theirs = theirs.assign(
        origin="published",
        attack=PUBLISHED_ATTACK,
        name=published.ATTACK,
        attribute="gender",
        shadow_corpora=theirs["private_corpus"].map(shadows),
        differs="",
    )
    both = pd.concat([theirs.astype(object), mine.astype(object)], ignore_index=True)
    return both[mine.columns].astype(dict.fromkeys(FIGURES, float))


def _ordered(records: pd.DataFrame, ours: pd.DataFrame, facet: str) -> pd.DataFrame:
    """Give the columns that name a row their order: as counted, or as it first appears."""
    orders: dict[str, Any] = {
        "layer": lambda layer: LAYERS.index(layer) if layer in LAYERS else len(LAYERS),
        "leaked_updates": lambda leaked: leaked_order({"leaked_updates": leaked}),
        "dropout": float,
        "private_corpus": lambda name: (*published.CORPORA, name).index(name),
        "attack": lambda attack: [attack.startswith(last) for last in reversed(LAST_ATTACKS)],
    }
    ordered = records.copy()
    for column in PLACE:
        first = [*ours[column], *records[column]] if column == facet else records[column]
        values = sorted(dict.fromkeys(first), key=orders.get(column, lambda value: 0))  # stable
        ordered[column] = pd.Categorical(records[column], categories=values, ordered=True)
    return ordered


def _keys(records: pd.DataFrame, layout: Layout) -> list[str]:
    """Columns that name a row of the table, in their order: those in which records differ."""
    shown = {"attack", layout.facet} - {layout.across}
    if "published" in set(records["origin"]):
        shown.add("private_corpus")
    shown |= {key for key in PLACE if records[key].nunique() > 1} - {layout.across}
    ours = records[records["origin"] == "ours"]
    if ours["shadow_corpora"].nunique() < 2:
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
    return grid.assign(metric=grid["metric"].map(METRICS).astype(str))


def _cells(records: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Records as one metric shows them; the study gives UAR at a fixed threshold only."""
    shown = records if metric == "uar_fixed" else records[records["origin"] == "ours"]
    texts = [_text(record, metric) for record in shown.to_dict("records")]
    more = "" if metric == "uar_fixed" else ", metric"
    return shown.assign(metric=metric, text=texts, differs=shown["differs"] + more)


def _text(record: dict[Any, Any], metric: str) -> str:
    if pd.isna(record[metric]):
        return ""
    if metric != "auc":
        return f"{100 * record[metric]:.1f}"
    interval = f" ({record['auc_low']:.3f}–{record['auc_high']:.3f})"
    return f"{record['auc']:.3f}" + ("" if pd.isna(record["auc_low"]) else interval)
