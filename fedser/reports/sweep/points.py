"""What the figures and the page of a sweep show of each run."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle

import pandas as pd

from fedser.reports import figures
from fedser.reports.numbers import auc_bounds, sample_text
from fedser.reports.sweep.read_runs import run_label
from fedser.results.attacks import AttackRecord, at_one, attack_series, strongest
from fedser.results.files import Results
from fedser.results.utility import chance_uar, fold_values

STRONGEST = ""
"""Key of the strongest attack of a run."""
REPEATED = {"seed", "privacy", "privacy.epsilon", "privacy.noise_multiplier"}
"""Overrides in which the runs of one line may differ."""
OF_CORPUS = {"corpus", "public", "shadow"}
"""Overrides that go with the private corpus, and make no other setting."""


def sweep_points(varied: pd.DataFrame, read: Sequence[Results | str]) -> pd.DataFrame:
    """Return the points of a sweep's figures; NaN stands for a figure that does not exist.

    Parameters
    ----------
    varied, read : DataFrame, list of dict or str
        As returned by `fedser.reports.sweep.read_runs.read_runs`.

    Returns
    -------
    DataFrame
        One row per run with results, indexed by its position in `read`. `one` and `most` are the
        AUC of the strongest attack at one and at the most leaked updates; `one_low`, `one_high`,
        `most_low` and `most_high` are its interval. `uar_low` and `uar_high` are the worst and
        the best fold, and `chance` is the UAR of guessing; UAR is in per cent. Runs with the
        same `series` and `mechanism` differ only in epsilon and seed. `setting` is the series
        without the corpora.
    """
    others = varied[[key for key in varied if key not in REPEATED]]
    settings = others[[key for key in others if key not in OF_CORPUS]]
    rows = {
        number: {
            "label": run_label(varied.iloc[number]) or str(varied.index[number]),
            "series": run_label(others.iloc[number]),
            "setting": run_label(settings.iloc[number]),
            **_point(results),
        }
        for number, results in enumerate(read)
        if not isinstance(results, str)
    }
    points = pd.DataFrame.from_dict(rows, orient="index")
    if rows:
        # Repeated runs have the same configured epsilon, but not exactly the same spent epsilon.
        points["configured"] = points["nominal"].fillna(points["real"]).map("{:.3g}".format)
    return points


def _point(results: Results) -> dict[str, object]:
    privacy, uar = results["privacy"], results["utility"]["uar"]
    one, most = (attacks.get(STRONGEST) for attacks in scored_attacks(results))
    folds = [100 * share for share in fold_values(results)]
    return {
        "mechanism": privacy["mechanism"],
        "corpus": results["corpus"]["name"],
        "unit": privacy["unit"],
        "vantage": privacy["vantage"],
        "delta": privacy["delta"],
        "real": _number(privacy["epsilon"]),
        "nominal": _number(privacy["nominal_epsilon"]),
        "chance": 100 * chance_uar(results),
        "uar": 100 * _number(uar),
        "public_uar": 100 * _number(results["utility"].get("public_uar")),
        "unprotected_uar": 100 * _number(results["utility"].get("unprotected_uar")),
        "uar_low": min(folds, default=math.nan),
        "uar_high": max(folds, default=math.nan),
        **_auc("one", one),
        **_auc("most", most),
        "speakers": results["speakers"],
        "clients": results["clients"],
    }


def scored_attacks(
    results: Results,
) -> tuple[dict[str, AttackRecord], dict[str, AttackRecord]]:
    """Return the attacks with an AUC at one and at the most leaked updates, by series.

    The key STRONGEST holds the strongest of them. Attacks that recognise speakers are left out,
    because their AUC is over pairs of clients.
    """
    series = {
        label: records
        for label, records in attack_series(results["attacks"]).items()
        if records[0]["across"] is None
    }
    one = {label: at_one(records) for label, records in series.items()}
    return _scored(one), _scored({label: records[-1] for label, records in series.items()})


def _scored(attacks: Mapping[str, AttackRecord | None]) -> dict[str, AttackRecord]:
    found = {STRONGEST: strongest(attacks.values()), **attacks}
    return {label: a for label, a in found.items() if a and a["auc"] is not None}


def _auc(name: str, attack: AttackRecord | None) -> dict[str, float]:
    if attack is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"), math.nan)
    low, high = map(_number, auc_bounds(attack))
    return {name: attack["auc"], f"{name}_low": low, f"{name}_high": high}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def mechanism_styles(points: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """Yield each mechanism with its colour and marker, which are the same in every figure."""
    colors, markers = cycle(figures.PALETTE), cycle(figures.MARKERS)
    for mechanism in points["mechanism"].unique():
        color = figures.INK if mechanism == "none" else next(colors)
        yield str(mechanism), color, next(markers)


def sample(points: pd.DataFrame) -> str:
    """Return the sample size of each run, as in "n = 10 speakers, 50 clients per run"."""
    return f"n = {sample_text(points['speakers'], points['clients'])} per run"
