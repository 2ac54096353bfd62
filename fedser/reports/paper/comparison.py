"""Our attacks against the study's, where it was run: which is the better one, and by how much."""

import pandas as pd

from fedser.reports.paper import published

BEST, AGAINST = "best of ours", "against cnn"
AGAINST_CNN = {"auc": "auc_against_cnn", "uar_calibrated": "uar_against_cnn"}
NOTE = (
    "Best of ours is the attack of the highest AUC that is not cnn, fusion among them. It is "
    "picked by the victims' true attributes, which flatters it."
)


def mark(records: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Find the best of our attacks in each group of records, and set it against the CNN.

    Parameters
    ----------
    records : DataFrame
        A row an attack record, as `sweep_records` gives them.
    keys : list of str
        Columns that name a group.

    Returns
    -------
    DataFrame
        The records with ``best_of_ours``, true for the one of the highest AUC that is not a
        CNN, and on that row ``auc_against_cnn`` and ``uar_against_cnn``: ours less the CNN's,
        NaN where it was not run.
    """
    marks = []
    for _, group in records[records["auc"].notna()].groupby(keys, observed=True):
        cnn = group["name"] == published.ATTACK
        best, rival = group[~cnn].nlargest(1, "auc"), group[cnn].nlargest(1, "auc")
        mark = best[[]].assign(best_of_ours=True)
        for figure, column in AGAINST_CNN.items():
            rival_figure = rival[figure].iloc[0] if len(rival) else float("nan")
            mark[column] = best[figure] - rival_figure
        marks.append(mark)
    if not marks:
        return records.assign(best_of_ours=False, **dict.fromkeys(AGAINST_CNN.values(), None))
    marked = records.join(pd.concat(marks))
    return marked.assign(best_of_ours=marked["best_of_ours"].eq(True))


def verdicts(cells: pd.DataFrame, rows: list[str]) -> pd.DataFrame:
    """Texts beside each row of the table: the best of ours, and how it stands to the CNN.

    Parameters
    ----------
    cells : DataFrame
        Marked records with ``metric``, either ``auc`` or ``uar_calibrated``.
    rows : list of str
        Columns that name a row.
    """
    best = cells[cells["best_of_ours"]].set_index(rows)
    scales = {"auc": (1, 3), "uar_calibrated": (100, 1)}
    against = [
        _against(row[AGAINST_CNN[row["figure"]]], *scales[row["figure"]])
        for row in best.assign(figure=best.index.get_level_values("metric")).to_dict("records")
    ]
    texts = pd.DataFrame({BEST: best["attack"].astype(str), AGAINST: against}, best.index)
    return texts if any(against) else texts[[BEST]]


def _against(difference: float, scale: int, digits: int) -> str:
    if pd.isna(difference):
        return ""
    text = f"{scale * difference:+.{digits}f}".replace("-", "−")
    return f"{text}, below" if difference < 0 else text


def summary(marked: pd.DataFrame, keys: list[str]) -> str:
    """Say in one sentence where ours is below the CNN; `keys` name a point."""
    compared = marked[marked["auc_against_cnn"].notna()]
    if compared.empty:
        return "cnn was not run: add it to attack=[...] to compare with the study's attack."
    below = compared[compared["auc_against_cnn"] < 0]
    if below.empty:
        return f"By AUC ours is below cnn at none of {len(compared)} points."
    points = [
        ", ".join(f"{key.replace('_', ' ')} {row[key]}" for key in keys)
        + f" ({_against(row['auc_against_cnn'], 1, 3).removesuffix(', below')})"
        for row in below.to_dict("records")
    ]
    listed = "; ".join(points)
    return f"By AUC ours is below cnn at {len(below)} of {len(compared)} points: {listed}."
