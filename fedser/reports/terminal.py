"""What a run, or a sweep of runs, prints when it is done."""

from collections.abc import Callable, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fedser.common.console import plain
from fedser.reports.sweep.points import run_label
from fedser.reports.wording import delta_text, nominal_text
from fedser.results.attacks import attack_series
from fedser.server.privacy.statement import epsilon_text

AUC_COLUMN = r".+_auc_(\d+|all)$"
SHOWN_LEAKS = 2  # as a rule one update and twenty; the file has all updates too
EPSILONS = {"real": "epsilon", "known": "epsilon_known_participation", "nominal": "nominal_epsilon"}
NOTE = (
    "AUC is that of the strongest attack, by leaked updates; 'known' is the real epsilon against "
    "whoever knows who took part in which round, where 'real' keeps that secret."
)


def summary_table(results: dict[str, Any]) -> Table:
    """Show utility, leakage and privacy side by side."""
    privacy, utility = results["privacy"], results["utility"]
    title = f"corpus {results['corpus']['name']}, privacy {privacy['mechanism']}"
    shown = Table(title=plain(title))
    recognising = any(entry["across"] for entry in results["attacks"])
    last = "EER" if recognising else "calibrated UAR"
    for column in ("attack", "updates", "AUC", "95 % interval", last):
        shown.add_column(column, justify="left" if column == "attack" else "right")
    for label, records in attack_series(results["attacks"]).items():
        for entry in records:
            interval = entry["ci95_auc"]
            shown.add_row(
                plain(label),
                str(entry["leaked_updates"]),
                _rounded(entry["auc"]),
                "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}",
                _rounded(entry["eer" if recognising else "uar_calibrated"]),
            )
    uar, folds = _rounded(utility["uar"]) or "unknown", len(utility["per_fold"])
    shown.caption = f"test UAR {uar} over {folds} fold(s); {_guarantee(privacy)}"
    return shown


def _guarantee(privacy: dict[str, Any]) -> str:
    if privacy["epsilon"] is None:
        return "no guarantee"
    text = (
        f"epsilon {epsilon_text(privacy['epsilon'])} at delta {delta_text(privacy['delta'])} "
        f"per {privacy['unit']}"
    )
    if privacy["participation"] == "secret":
        text += " while participation is secret"
    known = privacy["epsilon_known_participation"]
    return text if known is None else f"{text} ({epsilon_text(known)} once known)"


def sweep_table(path: Path, together: Sequence[str] = ()) -> Table:
    """Show the runs of a sweep: utility, AUC of the strongest attack, and the guarantee.

    Parameters
    ----------
    path : Path
        The table that `write_sweep` left.
    together : sequence of str
        What the runs spend together, as of `fedser.reports.several_runs.statements`.
    """
    runs = pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""])
    vantages = dict(zip(runs["vantage"].dropna().unique(), ascii_lowercase, strict=False))
    cells = _cells(runs).assign(vantage=runs["vantage"].map(vantages))
    shown = Table(title="sweep", box=SIMPLE_HEAD, padding=0, caption_justify="left")
    for column in map(str, cells):
        name = column in ("run", "mechanism")  # these give way in a narrow terminal
        number = column.startswith(("test", "AUC", "ε"))
        shown.add_column(
            column, justify="right" if number else "left", no_wrap=not name, overflow="fold"
        )
    for row in cells.astype(object).fillna("").itertuples(index=False):
        shown.add_row(*map(plain, row))
    notes = [NOTE, *(f"{letter}: {sentence}" for sentence, letter in vantages.items())]
    notes += [
        f"{', '.join(failed)}: {problem}"
        for problem, failed in cells["run"].groupby(runs["problem"])
    ]
    shown.caption = plain("\n".join([*notes, *together]))
    return shown


def _cells(runs: pd.DataFrame) -> pd.DataFrame:
    """Texts of the table, a row a run."""
    varied = runs.columns[1 : runs.columns.get_loc("mechanism")]
    labels = [run_label(row) for _, row in runs[varied].iterrows()]
    auc = runs.filter(regex=AUC_COLUMN).astype(float)
    leaked = auc.columns.str.extract(AUC_COLUMN, expand=False)
    strongest = {
        f"AUC\n{count}": auc.loc[:, leaked == count].max(axis="columns").map(_rounded)
        for count in leaked.unique()[:SHOWN_LEAKS]
    }
    nominal, spent = _blank(nominal_text), _blank(epsilon_text)
    epsilons = {
        f"ε\n{name}": runs[column].astype(float).map(nominal if name == "nominal" else spent)
        for name, column in EPSILONS.items()
    }
    return pd.DataFrame(
        {
            "run": [label or run for label, run in zip(labels, runs["run"], strict=True)],
            "mechanism": runs["mechanism"],
            "test\nUAR": runs["uar"].astype(float).map(_rounded),
            **strongest,
            **epsilons,
            "unit": runs["unit"],
        }
    )


def _rounded(value: float | None) -> str:
    return "" if pd.isna(value) else f"{value:.3f}"


def _blank(text: Callable[[float], str]) -> Callable[[float], str]:
    """Return a function that leaves a cell empty if its figure is missing."""
    return lambda value: "" if pd.isna(value) else text(value)
