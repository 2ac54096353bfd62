"""Sentences that name the settings that recognise best at each epsilon of a sweep."""

from typing import NamedTuple

import pandas as pd

from fedser.reports.numbers import counted, percent
from fedser.server.privacy.statement import VANTAGES

EPSILON_DIGITS = 2


class Contender(NamedTuple):
    """The runs of one setting at one epsilon, which differ in nothing but the seed.

    Attributes
    ----------
    name : str
    uar, low, high : float
        Mean, lowest and highest test UAR of the runs, in per cent.
    runs : int
    """

    name: str
    uar: float
    low: float
    high: float
    runs: int


def winner_sentences(points: pd.DataFrame) -> list[str]:
    """Return one sentence for each corpus, unit, observer and epsilon with several settings.

    Parameters
    ----------
    points : DataFrame
        As returned by `fedser.reports.sweep.points.sweep_points`.
    """
    guaranteed = points[points["real"].notna() & points["nominal"].isna()] if len(points) else points
    if not len(guaranteed):
        return []
    shown = guaranteed["real"].map(f"{{:.{EPSILON_DIGITS}g}}".format)
    groups = guaranteed.groupby(["corpus", "unit", "vantage", shown], sort=False)
    return [
        _sentence(*kind, _contenders(runs), points[points["corpus"] == kind[0]])
        for kind, runs in sorted(groups, key=lambda group: (*group[0][:3], float(group[0][3])))
        if runs[["series", "mechanism"]].drop_duplicates().shape[0] > 1
    ]


def _contenders(runs: pd.DataFrame) -> list[Contender]:
    """Return the settings of a group, best first."""
    found = []
    for (series, mechanism), own in runs.groupby(["series", "mechanism"], sort=False):
        name = f"{mechanism} ({series})" if series else mechanism
        uar = own["uar"]
        found.append(Contender(name, uar.mean(), uar.min(), uar.max(), len(own)))
    return sorted(found, key=lambda contender: -contender.uar)


def _sentence(
    corpus: str,
    unit: str,
    vantage: str,
    epsilon: str,
    contenders: list[Contender],
    of_corpus: pd.DataFrame,
) -> str:
    best, second = contenders[:2]
    certain = best.runs > 1 and best.low > second.high
    observer = "the server" if vantage == VANTAGES["attributed"] else "whoever sees the sums"
    text = (
        f"{corpus}, ε = {epsilon} for one {unit} against {observer}: {best.name} recognises best, "
        f"test UAR {_uar(best.uar)} (mean of {counted(best.runs, 'run')}); then {second.name}, "
        f"{_uar(second.uar)}"
    )
    if not certain:
        text += "; the runs do not tell the two apart"
    unprotected = of_corpus[of_corpus["mechanism"] == "none"]
    for label, figure in (
        ("public speech alone", of_corpus["public_uar"].mean()),
        ("without a mechanism", unprotected.groupby("series")["uar"].mean().max()),
    ):
        if pd.notna(figure):
            text += f"; {label} {_uar(figure)}"
    return f"{text}."


def _uar(value: float) -> str:
    return percent(value / 100)
