"""The page of a sweep's table: ours beside the published one, and why they differ."""

from pathlib import Path
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from fedser.common.files import write_text
from fedser.reports import figures
from fedser.reports.pages import render
from fedser.reports.paper.rows import DIFFERENCES
from fedser.reports.paper.text import PUBLISHED, is_name, named_differences, titles


def write_page(
    sweep_dir: Path, title: str, grid: pd.DataFrame, notes: list[str], figure: Figure | None
) -> Path:
    """Write `table.html`, which needs nothing else, into the folder of a multirun.

    Parameters
    ----------
    grid : DataFrame
        Texts of the table.
    notes : list of str
        Its footnotes.
    figure : Figure or None
        Its figure; None where there is nothing to draw.

    Returns
    -------
    Path
        The page.
    """
    page = sweep_dir / "table.html"
    cells = grid.astype(str)
    first = cells.columns[0]
    starts = cells[first].ne(cells[first].shift())
    theirs = [PUBLISHED in row for row in cells.to_numpy().tolist()]
    text = render(
        "table.html.jinja",
        title=title,
        columns=[(name, is_name(column)) for name, column in zip(titles(grid), grid, strict=True)],
        rows=[
            {"cells": row, "starts": start, "theirs": other}
            for row, start, other in zip(cells.to_numpy().tolist(), starts, theirs, strict=True)
        ],
        figure=Markup(figures.inline_svg(figure)) if figure else None,
        notes=notes,
        differences=[(name, DIFFERENCES[name]) for name in named_differences(grid)],
        runs=[
            (run.parent.name, f"{quote(run.parent.name)}/{run.name}")
            for run in sorted(sweep_dir.glob("*/report.html"))
        ],
    )
    write_text(page, text)
    return page
