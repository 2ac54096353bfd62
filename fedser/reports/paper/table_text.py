"""A table as text: Markdown for files, and a Rich table for the terminal."""

import re
from string import ascii_lowercase

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fedser.common.console import plain
from fedser.reports.paper import against_cnn
from fedser.reports.paper.differences import DIFFERENCES
from fedser.reports.paper.grid import DIFFERS, NAMES, grid_differences, headings

INTERVAL = re.compile(r" \(([\d.]+)–([\d.]+)\)")
SHORT = {"UAR fixed (%)": "UAR fix.", "UAR calibrated (%)": "UAR cal.", "accuracy (%)": "acc. (%)"}
UNBROKEN = {*NAMES, "dropout", "leaked_updates", against_cnn.AGAINST}
"""Columns with headings that stay on one line as long as possible."""


def markdown(title: str, grid: pd.DataFrame, notes: list[str]) -> str:
    """Return the table in GitHub's Markdown, with its footnotes below."""
    aligned = ["---" if column in NAMES else "---:" for column in grid]
    lines = [headings(grid), aligned, *grid.astype(str).to_numpy().tolist()]
    rows = ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]
    explained = [f"*{name}*: {DIFFERENCES[name]}." for name in grid_differences(grid)]
    bullets = [f"- {' '.join(note.split())}" for note in [*notes, *explained]]
    return "\n".join([f"## {title}", "", *rows, "", *bullets, ""])


def terminal_table(title: str, grid: pd.DataFrame, notes: list[str], width: int) -> Table:
    """Return the table for a terminal; letters stand for the differences.

    Parameters
    ----------
    width : int
        Columns of the terminal.
    """
    letters = dict(zip(grid_differences(grid), ascii_lowercase, strict=False))
    texts = grid.astype(str).map(_narrow)
    texts[DIFFERS] = [
        "".join(letters[n] for n in names.split(", ") if n) for names in texts[DIFFERS]
    ]
    headers = [title.removesuffix(" from the study in") for title in headings(grid)]
    cells, widths = _fit(texts, headers, width)
    if not cells.equals(texts):
        notes = [*notes, "Intervals are in the file."]
    explained = [f"{letter} {name}: {DIFFERENCES[name]}." for name, letter in letters.items()]
    shown = Table(title=plain(title), box=SIMPLE_HEAD, padding=0, caption_justify="left")
    shown.caption = plain("\n".join([*notes, *explained]))
    for column, header, columns in zip(cells, headers, widths, strict=True):
        justify = "left" if column in NAMES else "right"
        shown.add_column(plain(header), justify=justify, width=columns, overflow="fold")  # type: ignore[arg-type]
    facet = cells.iloc[:, 0]
    ends = facet.ne(facet.shift(-1)).tolist()
    for row, end in zip(_without_repeats(cells).to_numpy().tolist(), ends, strict=True):
        shown.add_row(*map(plain, row), end_section=end)
    return shown


def _without_repeats(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the texts without the names of a line if the line above has the same names."""
    names = list(cells)[: list(cells).index("metric")]
    repeated = cells[names].eq(cells[names].shift()).all(axis="columns")
    result = cells.copy()
    result.loc[repeated, names] = ""
    return result


def _narrow(cell: str) -> str:
    """Put an interval below its figure, with two digits, and shorten the name of a metric."""
    below = INTERVAL.sub(lambda found: "\n" + "–".join(map(_two_digits, found.groups())), cell)
    return SHORT.get(below, below)


def _two_digits(number: str) -> str:
    return f"{float(number):.2g}" if float(number) > 1 else f"{float(number):.2f}".removeprefix("0")


def _fit(texts: pd.DataFrame, headers: list[str], width: int) -> tuple[pd.DataFrame, list[int]]:
    """Make the table narrow enough for the terminal.

    First the headings of figures break, then intervals are left out, then cells break.

    Returns
    -------
    DataFrame
        The remaining texts.
    list of int
        Width of each column.
    """
    bare = texts.map(lambda cell: cell.partition("\n")[0])
    unbroken = [column in UNBROKEN for column in texts]
    for cells in (texts, bare):
        lines = [max(map(len, "\n".join(cells[column]).split("\n"))) for column in cells]
        titles = [max(map(len, header.split())) for header in headers]
        natural = list(map(max, lines, titles))
        narrow = [
            n if keep else line for n, line, keep in zip(natural, lines, unbroken, strict=True)
        ]
        for widths in (natural, narrow):
            if sum(widths) + len(widths) < width:
                return cells, widths
    return bare, [max(map(len, " ".join(bare[column]).split()), default=3) for column in bare]
