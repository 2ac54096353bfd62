"""The page `table.html`: our figures beside the published ones, and how they differ."""

from pathlib import Path
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from fedser.reports import figures
from fedser.reports.paper.differences import DIFFERENCES
from fedser.reports.paper.grid import NAMES, grid_differences, headings
from fedser.reports.paper.table_rows import PUBLISHED
from fedser.reports.render import render


def table_page(
    sweep_dir: Path, title: str, grid: pd.DataFrame, notes: list[str], figure: Figure | None
) -> str:
    """Return the page.

    Parameters
    ----------
    sweep_dir : Path
        Folder of the multirun. The page links to the reports of its runs.
    grid : DataFrame
        Texts of the table.
    notes : list of str
        Footnotes of the table.
    figure : Figure or None
        Figure of the table; None if every run failed.
    """
    cells = grid.astype(str)
    first = cells.columns[0]
    starts = cells[first].ne(cells[first].shift())
    return render(
        "table.html.jinja",
        title=title,
        columns=[(name, key in NAMES) for name, key in zip(headings(grid), grid, strict=True)],
        rows=[
            {"cells": line, "starts": start, "published": PUBLISHED in line}
            for line, start in zip(cells.to_numpy().tolist(), starts, strict=True)
        ],
        figure=Markup(figures.inline_svg(figure)) if figure else None,
        notes=notes,
        differences=[(name, DIFFERENCES[name]) for name in grid_differences(grid)],
        runs=[
            (run.parent.name, f"{quote(run.parent.name)}/{run.name}")
            for run in sorted(sweep_dir.glob("*/report.html"))
        ],
    )
