"""The table of one run that the command prints."""

from rich.table import Table

from fedser.common.console import plain
from fedser.reports.numbers import (
    DASH,
    auc_bounds,
    auc_with_interval,
    counted,
    guarantee_text,
    percent,
)
from fedser.results.attacks import attack_series
from fedser.results.files import Results
from fedser.results.utility import reference_uars
from fedser.server.privacy.statement import epsilon_text


def summary_table(results: Results) -> Table:
    """Return utility, leakage and privacy of a run as one table for the terminal."""
    title = f"corpus {results['corpus']['name']}, privacy {results['privacy']['mechanism']}"
    table = Table(title=plain(title))
    header, *rows = attack_rows(results)
    for column in header:
        table.add_column(column, justify="left" if column == "attack" else "right")
    for row in rows:
        table.add_row(plain(row[0]), *row[1:])
    uar, folds = percent(results["utility"]["uar"]), len(results["utility"]["per_fold"])
    shown = f"test UAR {'unknown' if uar == DASH else uar}"
    if beside := reference_uars(results):
        shown += f" ({'; '.join(f'{label} {percent(uar)}' for label, uar in beside.items())})"
    table.caption = f"{shown} over {counted(folds, 'fold')}; {guarantee_sentence(results)}"
    return table


def attack_rows(results: Results) -> list[list[str]]:
    """Return a header and one row per attack record."""
    recognising = any(attack["across"] for attack in results["attacks"])
    last, key = ("EER", "eer") if recognising else ("calibrated UAR", "uar_calibrated")
    return [
        ["attack", "updates", "AUC (95 % interval)", last],
        *(
            [
                label,
                str(attack["leaked_updates"]),
                auc_with_interval(attack["auc"], *auc_bounds(attack)),
                percent(attack[key]),
            ]
            for label, records in attack_series(results["attacks"]).items()
            for attack in records
        ),
    ]


def guarantee_sentence(results: Results) -> str:
    """Return the guarantee in a few words, with epsilon for both kinds of observers."""
    privacy = results["privacy"]
    if privacy["epsilon"] is None:
        return "no guarantee"
    text = guarantee_text(privacy["epsilon"], privacy["delta"], privacy["unit"])
    if privacy["participation"] == "secret":
        text += " if participation is secret"
    known = privacy["epsilon_known_participation"]
    return text if known is None else f"{text} (ε = {epsilon_text(known)} if it is known)"
