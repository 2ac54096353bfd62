"""The table of a sweep beside the published one: `table.csv`, `.md`, `.png` and `.html`."""

from pathlib import Path

from rich.table import Table

from fedser.common.files import write_text
from fedser.reports import figures
from fedser.reports.composed_privacy import composition_sentences
from fedser.reports.paper.against_cnn import mark_best
from fedser.reports.paper.footnotes import footnotes
from fedser.reports.paper.grid import line_keys, ordered, text_grid
from fedser.reports.paper.layouts import LAYOUTS
from fedser.reports.paper.table_figure import table_figure
from fedser.reports.paper.table_page import table_page
from fedser.reports.paper.table_rows import our_rows, with_published
from fedser.reports.paper.table_text import markdown, terminal_table
from fedser.reports.sweep.find_runs import runs_below
from fedser.reports.sweep.read_runs import finished, read_runs


def write_table(sweep_dir: Path, table: str, width: int = 120) -> Table | None:
    """Write `table.csv`, `.md`, `.png` and `.html` into the folder of a multirun.

    Parameters
    ----------
    sweep_dir : Path
        Folder that holds Hydra's run folders.
    table : str
        A key of LAYOUTS.
    width : int
        Columns of the terminal.

    Returns
    -------
    Table or None
        The table for the terminal; None if the folder holds no run. `table.csv` has one row per
        attack record, ours and published, with figures from 0 to 1. There is no figure if every
        run failed.
    """
    layout = LAYOUTS[table]
    ours, problems = our_rows(sweep_dir, table)
    if ours.empty and not problems:
        return None
    rows = ordered(with_published(ours, table, layout.beside), ours)
    keys = line_keys(rows, layout)
    if table == "comparison":
        rows = mark_best(rows, [key for key in keys if key != "attack"])
    grid = text_grid(rows, keys, layout)
    attribute = "gender" if ours.empty else ours["attribute"].iloc[0]
    title = layout.title.format(attribute).capitalize()
    notes = footnotes(rows, table, keys, problems)
    notes += composition_sentences(finished(read_runs(runs_below(sweep_dir))[1]))
    figure = None
    if ours[list(layout.metrics)].notna().any(axis=None):
        figure = table_figure(rows, keys, layout)
    write_text(sweep_dir / "table.csv", rows.to_csv(index=False))
    write_text(sweep_dir / "table.md", markdown(title, grid, notes))
    if figure:
        figures.save_png(figure, sweep_dir / "table.png")
    write_text(sweep_dir / "table.html", table_page(sweep_dir, title, grid, notes, figure))
    return terminal_table(title, grid, notes, width)
