"""The table of a sweep that the command prints."""

from collections.abc import Callable, Sequence
from pathlib import Path
from string import ascii_lowercase

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fedser.common.console import plain
from fedser.reports.numbers import auc_text, nominal_text, percent_number
from fedser.reports.sweep.read_runs import run_label
from fedser.server.privacy.statement import epsilon_text

AUC_COLUMN = r".+_auc_(\d+|all)$"
SHOWN_LEAKS = 2  # usually 1 and 20 updates; "all" is in the file
EPSILONS = {
    "real": ("epsilon", epsilon_text),
    "known": ("epsilon_known_participation", epsilon_text),
    "nominal": ("nominal_epsilon", nominal_text),
}
NOTE = (
    "UAR is in per cent. AUC is of the strongest attack, by leaked updates. 'real' may assume that "
    "participation is secret; 'known' is the real epsilon against an observer who knows who took "
    "part in which round."
)


def sweep_table(path: Path, together: Sequence[str] = ()) -> Table:
    """Return utility, AUC of the strongest attack and guarantee of each run as a table.

    Parameters
    ----------
    path : Path
        `sweep.csv` of a sweep.
    together : sequence of str
        What the runs spend together, as returned by
        `fedser.reports.composed_privacy.composition_sentences`.
    """
    runs = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    vantages = dict(zip(runs["vantage"].dropna().unique(), ascii_lowercase, strict=False))
    cells = sweep_cells(runs).assign(vantage=runs["vantage"].map(vantages))
    table = Table(title="sweep", box=SIMPLE_HEAD, padding=0, caption_justify="left")
    for column in map(str, cells):
        folds = column in ("run", "mechanism")  # names may break in a narrow terminal
        number = column.startswith(("test", "AUC", "ε"))
        table.add_column(
            column, justify="right" if number else "left", no_wrap=not folds, overflow="fold"
        )
    for row in cells.astype(object).fillna("").itertuples(index=False):
        table.add_row(*map(plain, row))
    notes = [NOTE, *(f"{letter}: {sentence}" for sentence, letter in vantages.items())]
    notes += [
        f"{', '.join(failed)}: {problem}"
        for problem, failed in cells["run"].groupby(runs["problem"])
    ]
    table.caption = plain("\n".join([*notes, *together]))
    return table


def sweep_cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the texts of the table, one row per run; a missing figure is an empty text.

    Parameters
    ----------
    runs : DataFrame
        `sweep.csv` as texts.
    """
    varied = runs.columns[1 : runs.columns.get_loc("mechanism")]
    labels = [run_label(row) for _, row in runs[varied].iterrows()]
    auc = runs.filter(regex=AUC_COLUMN).astype(float)
    leaked = auc.columns.str.extract(AUC_COLUMN, expand=False)
    strongest = {
        f"AUC\n{count}": auc.loc[:, leaked == count].max(axis="columns").map(_or_empty(auc_text))
        for count in leaked.unique()[:SHOWN_LEAKS]
    }
    epsilons = {
        f"ε\n{name}": runs[column].astype(float).map(_or_empty(text))
        for name, (column, text) in EPSILONS.items()
    }
    return pd.DataFrame(
        {
            "run": [label or run for label, run in zip(labels, runs["run"], strict=True)],
            "mechanism": runs["mechanism"],
            "test\nUAR": runs["uar"].astype(float).map(_or_empty(percent_number)),
            **strongest,
            **epsilons,
            "unit": runs["unit"],
        }
    )


def _or_empty(text: Callable[[float], str]) -> Callable[[float], str]:
    """Return a function that gives an empty text for NaN."""
    return lambda value: "" if pd.isna(value) else text(value)
