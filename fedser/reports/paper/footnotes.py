"""The footnotes of a table: how to read it, the sample, what all rows share, and the sources."""

from collections.abc import Iterator

import pandas as pd

from fedser.reports.numbers import sample_text
from fedser.reports.paper import against_cnn, published
from fedser.reports.paper.differences import LANGUAGES
from fedser.reports.paper.table_rows import PLACE

READING = (
    "UAR is in per cent; guessing gives 50. UAR fixed uses the attack's own threshold; UAR "
    "calibrated uses the median score of the victims as threshold. For AUC, guessing gives 0.5. "
    "Intervals are 95 %, bootstrapped over speakers."
)
RECOGNITION = (
    "UAR and accuracy of emotion recognition are in per cent. Guessing gives a UAR of {}: one over "
    "the number of emotions in a test fold. Our figures are means over the test folds, with the "
    "lowest and the highest fold."
)
CNN = "UAR of a CNN at a fixed threshold, "


def footnotes(
    rows: pd.DataFrame, table: str, keys: list[str], problems: dict[str, str]
) -> list[str]:
    """Return the footnotes of a table.

    Parameters
    ----------
    rows : DataFrame
        Rows of `table.csv`, ours and published.
    table : str
        Name of the table.
    keys : list of str
        Columns that name a line of the table.
    problems : dict of str to str
        The problem of each run without results, by the name of the run.
    """
    ours = rows[rows["origin"] == "ours"]
    notes = [_reading(ours, table)] if len(ours) else []
    if table == "comparison":
        notes += [against_cnn.NOTE, against_cnn.summary(rows, keys)]
    notes += [*_samples(ours, table), *_shared(ours, keys)]
    if table in published.FILES:
        features = rows.loc[rows["origin"] == "published", "features"].unique()
        figures = "" if table == "utility" else CNN
        notes.append(
            f"Published: {published.SOURCES[table]}; {figures}means of five folds, features "
            f"{', '.join(features)}."
        )
    if table == "updates":
        notes.append("The study's 100 leaked updates are in column all: no client sent more.")
    notes += [f"No results of {run}: {problem}" for run, problem in problems.items()]
    return notes


def _reading(ours: pd.DataFrame, table: str) -> str:
    if table != "utility":
        return READING
    guessing = sorted({f"{100 * chance:.3g}" for chance in ours["chance_uar"].dropna()})
    return RECOGNITION.format(" or ".join(guessing) or "25")


def _samples(ours: pd.DataFrame, table: str) -> Iterator[str]:
    """Yield the sample of each private corpus, and the corpora that it is attacked from."""
    for (private, shadows), group in ours.groupby(
        ["private_corpus", "shadow_corpora"], observed=True
    ):
        counts = group[["speakers", "victims"]].max()
        if counts.isna().any():  # none of its runs is finished
            continue
        sample = sample_text([counts["speakers"]], [counts["victims"]])
        attackers = " and ".join(map(_with_language, str(shadows).split("+")))
        attacked = "" if table == "utility" else f", attacked from {attackers}"
        yield f"{_with_language(str(private))}: {sample}{attacked}."


def _with_language(corpus: str) -> str:
    return f"{corpus} ({LANGUAGES.get(corpus, 'language not stated')})"


def _shared(ours: pd.DataFrame, keys: list[str]) -> list[str]:
    """Return the settings that all our rows share and that the table does not show."""
    settings = [*PLACE[1:7], "selection", "combination", "vantage"]
    shared = [
        f"{column.replace('_', ' ')} {ours[column].iloc[0]}"
        for column in settings
        if column not in keys and ours[column].nunique() == 1 and ours[column].notna().all()
    ]
    return [f"In every row of ours: {', '.join(shared)}."] if shared else []
