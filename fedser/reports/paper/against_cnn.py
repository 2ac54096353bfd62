"""The best of our attacks compared with the study's attack, a CNN."""

import pandas as pd

from fedser.reports.paper import published

BEST, AGAINST = "best of ours", "against cnn"
AGAINST_CNN = {"auc": "auc_against_cnn", "uar_calibrated": "uar_against_cnn"}
"""Columns of `table.csv` with the difference to the CNN, for each metric."""
SCALES = {"auc": (1, 3), "uar_calibrated": (100, 1)}
"""Factor and decimals of the text, for each metric."""
NOTE = (
    "Best of ours is the attack with the highest AUC, except cnn; fusion counts as ours. It is "
    "chosen with the victims' true attributes, so its figures are optimistic."
)


def mark_best(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Mark the best of our attacks in each group of rows, and compare it with the CNN.

    Parameters
    ----------
    rows : DataFrame
        Rows of `table.csv`.
    keys : list of str
        Columns that name a group.

    Returns
    -------
    DataFrame
        The rows with ``best_of_ours``, which is true for the attack with the highest AUC that is
        not a CNN. On this row, ``auc_against_cnn`` and ``uar_against_cnn`` are our figure minus
        the CNN's figure; NaN if the CNN was not run.
    """
    marks = []
    for _, group in rows[rows["auc"].notna()].groupby(keys, observed=True):
        is_cnn = group["name"] == published.ATTACK
        best, cnn = group[~is_cnn].nlargest(1, "auc"), group[is_cnn].nlargest(1, "auc")
        mark = best[[]].assign(best_of_ours=True)
        for metric, column in AGAINST_CNN.items():
            cnn_figure = cnn[metric].iloc[0] if len(cnn) else float("nan")
            mark[column] = best[metric] - cnn_figure
        marks.append(mark)
    if not marks:
        return rows.assign(best_of_ours=False, **dict.fromkeys(AGAINST_CNN.values(), None))
    marked = rows.join(pd.concat(marks))
    return marked.assign(best_of_ours=marked["best_of_ours"].eq(True))


def comparison_texts(cells: pd.DataFrame, line: list[str]) -> pd.DataFrame:
    """Return for each line of the table the best of our attacks and its difference to the CNN.

    Parameters
    ----------
    cells : DataFrame
        Marked rows with ``metric``, which is ``auc`` or ``uar_calibrated``.
    line : list of str
        Columns that name a line.
    """
    best = cells[cells["best_of_ours"]].set_index(line)
    metrics = best.index.get_level_values("metric")
    against = [
        _difference(row[AGAINST_CNN[metric]], *SCALES[metric])
        for metric, row in zip(metrics, best.to_dict("records"), strict=True)
    ]
    texts = pd.DataFrame({BEST: best["attack"].astype(str), AGAINST: against}, best.index)
    return texts if any(against) else texts[[BEST]]


def _difference(difference: float, scale: int, digits: int) -> str:
    if pd.isna(difference):
        return ""
    text = f"{scale * difference:+.{digits}f}".replace("-", "−")
    return f"{text}, below" if difference < 0 else text


def summary(marked: pd.DataFrame, keys: list[str]) -> str:
    """Return one sentence on the points at which our best AUC is below the CNN's AUC.

    Parameters
    ----------
    marked : DataFrame
        As returned by `mark_best`.
    keys : list of str
        Columns that name a point.
    """
    compared = marked[marked["auc_against_cnn"].notna()]
    if compared.empty:
        return "cnn was not run. To compare with the study's attack, add cnn to attack=[...]."
    below = compared[compared["auc_against_cnn"] < 0]
    if below.empty:
        return f"The AUC of the best of ours is below cnn at none of {len(compared)} points."
    points = [
        ", ".join(f"{key.replace('_', ' ')} {row[key]}" for key in keys)
        + f" ({_difference(row['auc_against_cnn'], *SCALES['auc']).removesuffix(', below')})"
        for row in below.to_dict("records")
    ]
    return (
        f"The AUC of the best of ours is below cnn at {len(below)} of {len(compared)} points: "
        f"{'; '.join(points)}."
    )
