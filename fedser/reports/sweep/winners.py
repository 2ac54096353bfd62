"""Sentences that name the settings that recognise best at each epsilon of a sweep."""

import statistics
from typing import NamedTuple

import pandas as pd

from fedser.reports.numbers import counted, percent
from fedser.server.privacy.statement import SERVER_TOO, VANTAGES

EPSILON_DIGITS = 2
OBSERVERS = {
    VANTAGES["attributed"]: "the server",
    VANTAGES["sum"]: "whoever sees the sums",
    SERVER_TOO: "whoever sees the sums, the server included",
    VANTAGES["outsider"]: "whoever sees the models but not who took part",
}


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
    if not len(points):
        return []
    found: dict[tuple[str, str, str, float], dict[str, list[float]]] = {}
    compared = points[points["real"].notna() & points["nominal"].isna() & points["uar"].notna()]
    for run in compared.to_dict("records"):
        epsilon = float(f"{run['real']:.{EPSILON_DIGITS}g}")
        kind = (str(run["corpus"]), str(run["unit"]), str(run["vantage"]), epsilon)
        name = f"{run['mechanism']} ({run['setting']})" if run["setting"] else run["mechanism"]
        found.setdefault(kind, {}).setdefault(str(name), []).append(float(run["uar"]))
    return [
        _sentence(kind, _contenders(settings), points[points["corpus"] == kind[0]])
        for kind, settings in sorted(found.items())
        if len(settings) > 1
    ]


def _contenders(settings: dict[str, list[float]]) -> list[Contender]:
    """Return the settings of a group, best first, from the test UAR of their runs."""
    contenders = [
        Contender(name, statistics.fmean(uars), min(uars), max(uars), len(uars))
        for name, uars in settings.items()
    ]
    return sorted(contenders, key=lambda contender: -contender.uar)


def _sentence(
    kind: tuple[str, str, str, float], contenders: list[Contender], of_corpus: pd.DataFrame
) -> str:
    (corpus, unit, vantage, epsilon), (best, second) = kind, contenders[:2]
    observer = OBSERVERS.get(vantage, vantage)
    text = (
        f"{corpus}, ε = {epsilon:g} for one {unit} against {observer}: {best.name} recognises "
        f"best, test UAR {_uar(best.uar)} (mean of {counted(best.runs, 'run')}); then "
        f"{second.name}, {_uar(second.uar)}"
    )
    if best.runs == 1 or best.low <= second.high:
        text += "; the runs do not tell the two apart"
    plain = of_corpus["uar"].where(of_corpus["mechanism"] == "none")
    unprotected = plain.fillna(of_corpus["unprotected_uar"])
    for label, figure in (
        ("public speech alone", of_corpus["public_uar"].mean()),
        ("without a mechanism", unprotected.groupby(of_corpus["setting"]).mean().max()),
    ):
        if pd.notna(figure):
            text += f"; {label} {_uar(figure)}"
    return f"{text}."


def _uar(value: float) -> str:
    return percent(value / 100)
