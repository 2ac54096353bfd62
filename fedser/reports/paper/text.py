"""Tables and their footnotes as text: Markdown for files, rich for the terminal."""

import re
from string import ascii_lowercase

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fedser.common.console import plain
from fedser.reports.paper import comparison, published
from fedser.reports.paper.rows import DIFFERENCES, LANGUAGES, PLACE

DIFFERS = "differs from the study in"
PUBLISHED = "published"
"""In the column of attacks: the study's."""
SOURCE = "source"
"""Whose figures these are, where nothing is attacked."""
READING = (
    "UAR is in percent, 50 is guessing: fixed, at the attack's own threshold, or calibrated, at "
    "the median score of the victims. Of AUC 0.5 is guessing; intervals, 95 %, are bootstrapped "
    "over speakers."
)
RECOGNITION = (
    "UAR and accuracy of emotions are in percent; of UAR {} is guessing: one over the emotions in "
    "a test fold. Ours are means of the test folds, with the lowest and the highest fold."
)
NAMES = {*PLACE, SOURCE, "metric", comparison.BEST, DIFFERS}
"""Columns that a row is named by; the others hold figures."""
INTERVAL = re.compile(r" \(([\d.]+)–([\d.]+)\)")
SHORT = {"UAR fixed (%)": "UAR fix.", "UAR calibrated (%)": "UAR cal.", "accuracy (%)": "acc. (%)"}
CNN = "UAR of a CNN at a fixed threshold, "


def explain(
    records: pd.DataFrame, table: str, keys: list[str], problems: dict[str, str]
) -> list[str]:
    """Write the footnotes: the sample, what all rows share, the sources, what failed.

    Parameters
    ----------
    records : DataFrame
        Ours and published ones.
    keys : list of str
        Columns that the table shows.
    problems : dict of str to str
        Why runs have no results, by their names.
    """
    ours = records[records["origin"] == "ours"]
    utility = table == "utility"
    guessing = sorted({f"{100 * chance:.3g}" for chance in ours["chance_uar"].dropna()})
    reading = RECOGNITION.format(" or ".join(guessing) or "25") if utility else READING
    notes = [reading] if len(ours) else []
    if table == "comparison":
        notes.append(comparison.NOTE)
        notes.append(comparison.summary(records, keys))
    for (private, shadows), group in ours.groupby(
        ["private_corpus", "shadow_corpora"], observed=True
    ):
        counts = group[["speakers", "victims"]].max()
        if counts.isna().any():  # none of its runs came to an end
            continue
        sample = f"{counts['speakers']} speakers, {counts['victims']} clients"
        attackers = " and ".join(map(_spoken, str(shadows).split("+")))
        attacked = "" if utility else f", attacked from {attackers}"
        notes.append(f"{_spoken(str(private))}: {sample}{attacked}.")
    alike = [*PLACE[1:7], "selection", "combination", "vantage"]
    shared = [
        f"{column.replace('_', ' ')} {ours[column].iloc[0]}"
        for column in alike
        if column not in keys and ours[column].nunique() == 1 and ours[column].notna().all()
    ]
    if shared:
        notes.append(f"In every row of ours: {', '.join(shared)}.")
    if table in published.FILES:
        theirs = records.loc[records["origin"] == "published", "features"].unique()
        rest = f"{'' if utility else CNN}means of five folds, features {', '.join(theirs)}"
        notes.append(f"Published: {published.SOURCES[table]}; {rest}.")
    if table == "updates":
        notes.append("The study's hundred leaked updates stand under all: no client sent more.")
    notes += [f"No results of {run}: {problem}" for run, problem in problems.items()]
    return notes


def _spoken(corpus: str) -> str:
    return f"{corpus} ({LANGUAGES.get(corpus, 'language not stated')})"


def markdown(title: str, grid: pd.DataFrame, notes: list[str]) -> str:
    """Return the table in GitHub's Markdown, its footnotes below it."""
    aligned = ["---" if is_name(column) else "---:" for column in grid]
    lines = [titles(grid), aligned, *grid.astype(str).to_numpy().tolist()]
    rows = ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]
    explained = [f"*{name}*: {DIFFERENCES[name]}." for name in named_differences(grid)]
    bullets = [f"- {' '.join(note.split())}" for note in [*notes, *explained]]
    return "\n".join([f"## {title}", "", *rows, "", *bullets, ""])


def terminal_table(title: str, grid: pd.DataFrame, notes: list[str], width: int) -> Table:
    """Return the table for a terminal of some width: with letters for what differs."""
    letters = dict(zip(named_differences(grid), ascii_lowercase, strict=False))
    texts = grid.astype(str).map(_narrow)
    texts[DIFFERS] = [
        "".join(letters[n] for n in names.split(", ") if n) for names in texts[DIFFERS]
    ]
    headers = [title.removesuffix(" from the study in") for title in titles(grid)]
    cells, widths = _fit(texts, headers, width)
    if not cells.equals(texts):
        notes = [*notes, "Intervals are in the file."]
    shown = Table(title=plain(title), box=SIMPLE_HEAD, padding=0, caption_justify="left")
    for column, header, columns in zip(cells, headers, widths, strict=True):
        justify = "left" if is_name(column) else "right"
        shown.add_column(plain(header), justify=justify, width=columns, overflow="fold")  # type: ignore[arg-type]
    facet = cells.iloc[:, 0]
    ends = facet.ne(facet.shift(-1)).tolist()
    names = list(cells)[: list(cells).index("metric")]
    cells.loc[cells[names].eq(cells[names].shift()).all(axis="columns"), names] = ""
    for row, end in zip(cells.to_numpy().tolist(), ends, strict=True):
        shown.add_row(*map(plain, row), end_section=end)
    explained = [f"{letter} {name}: {DIFFERENCES[name]}." for name, letter in letters.items()]
    shown.caption = plain("\n".join([*notes, *explained]))
    return shown


def _narrow(cell: str) -> str:
    """Put an interval below its figure, to two digits, and shorten the metric."""
    below = INTERVAL.sub(lambda found: "\n" + "–".join(map(_two_digits, found.groups())), cell)
    return SHORT.get(below, below)


def _fit(texts: pd.DataFrame, headers: list[str], width: int) -> tuple[pd.DataFrame, list[int]]:
    """Make the table as narrow as it must be.

    Headers of figures break first, then intervals are left to the file, then cells break.

    Returns
    -------
    DataFrame
        The texts that are left.
    list of int
        Width of each column.
    """
    bare = texts.map(lambda cell: cell.partition("\n")[0])
    named = [column in {*NAMES, comparison.AGAINST} for column in texts]
    for cells in (texts, bare):
        lines = [max(map(len, "\n".join(cells[column]).split("\n"))) for column in cells]
        titles = [max(map(len, header.split())) for header in headers]
        natural = list(map(max, lines, titles))
        narrow = [n if keep else line for n, line, keep in zip(natural, lines, named, strict=True)]
        for widths in (natural, narrow):
            if sum(widths) + len(widths) < width:
                return cells, widths
    return bare, [max(map(len, " ".join(bare[column]).split()), default=3) for column in bare]


def _two_digits(number: str) -> str:
    return f"{float(number):.2g}" if float(number) > 1 else f"{float(number):.2f}".removeprefix("0")


def titles(grid: pd.DataFrame) -> list[str]:
    """Return the columns as headings."""
    return [str(column).replace("_", " ") for column in grid]


def is_name(column: object) -> bool:
    """Whether a column holds words, not figures."""
    return column in NAMES - {"dropout", "leaked_updates"}


def named_differences(grid: pd.DataFrame) -> list[str]:
    """Return what the rows differ in, in the order of DIFFERENCES."""
    found = set(", ".join(grid[DIFFERS]).split(", "))
    return [name for name in DIFFERENCES if name in found]
