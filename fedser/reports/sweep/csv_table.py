"""The table `sweep.csv`: one row per run."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from fedser.results.attacks import AttackRecord, attack_series
from fedser.results.files import Results
from fedser.results.utility import chance_uar

UTILITY = ["mechanism", "uar", "public_uar", "unprotected_uar", "chance_uar", "accuracy"]
GUARANTEE = ["nominal_epsilon", "epsilon", "epsilon_known_participation", "participation"]
STATEMENT = [*UTILITY, *GUARANTEE, "delta", "unit", "vantage", "noise_to_signal"]
COUNTS = ["speakers", "clients"]
SHOWN_LEAKS = (1, 20)


def csv_table(varied: pd.DataFrame, read: Sequence[Results | str]) -> pd.DataFrame:
    """Return the table over runs.

    Parameters
    ----------
    varied, read : DataFrame, list of dict or str
        As returned by `fedser.reports.sweep.read_runs.read_runs`.

    Returns
    -------
    DataFrame
        One row per run. A run that failed has the reason in `problem` and no figures. Columns
        such as `correlation_auc_20` name the number of leaked updates: 1, 20 and the largest
        number that was attacked. The 95 % interval is in `correlation_auc_20_low` and
        `correlation_auc_20_high`. Attacks that recognise speakers have an `eer` and no `auc`,
        because their AUC is over pairs of clients.
    """
    rows = pd.DataFrame([_row(results) for results in read])
    attacked = [name for name in rows if name not in {*STATEMENT, *COUNTS, "problem"}]
    rows = rows.reindex(columns=[*STATEMENT, *COUNTS, *attacked, "problem"])
    rows = rows.astype(dict.fromkeys(COUNTS, "Int64")).set_axis(varied.index)
    return pd.concat([varied, rows], axis="columns").reset_index(names="run")


def _row(results: Results | str) -> dict[str, Any]:
    if isinstance(results, str):
        return {"problem": results}
    summary = {**results, **results["utility"], **results["privacy"]}
    summary["chance_uar"] = chance_uar(results)
    row = {column: summary.get(column) for column in [*STATEMENT, *COUNTS]}
    for label, records in attack_series(results["attacks"]).items():
        for record in records:
            if record["leaked_updates"] in SHOWN_LEAKS or record is records[-1]:
                row |= _attack_columns(label.replace(", ", "_"), record)
    return row


def _attack_columns(name: str, record: AttackRecord) -> dict[str, Any]:
    columns = {}
    for figure in ("eer",) if record["across"] else ("auc", "uar_calibrated"):
        column = f"{name}_{figure}_{record['leaked_updates']}"
        columns[column] = record[figure]
        if bounds := record.get(f"ci95_{figure}"):
            columns |= {f"{column}_low": bounds[0], f"{column}_high": bounds[1]}
    return columns
