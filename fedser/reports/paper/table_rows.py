"""The rows of `table.csv`: one per attack record of a sweep, and one per published figure."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from fedser.reports.numbers import auc_bounds
from fedser.reports.paper import published
from fedser.reports.paper.differences import differences, short_features_name
from fedser.reports.sweep.find_runs import runs_below
from fedser.reports.sweep.read_runs import finished, read_config, read_runs, run_label
from fedser.results.attacks import AttackRecord, attack_series
from fedser.results.files import Results
from fedser.results.utility import chance_uar, fold_values

PLACE = [
    *("run", "features", "algorithm", "privacy", "dropout", "layer", "leaked_updates"),
    *("private_corpus", "shadow_corpora", "attack"),
]
"""Columns that tell one row from another."""
INFERENCE = ["auc", "auc_low", "auc_high", "uar_fixed", "uar_calibrated", "p_value"]
UTILITY = [name + end for name in ("uar", "accuracy") for end in ("", "_low", "_high")]
"""Mean over the test folds, lowest fold and highest fold."""
FIGURES = [*INFERENCE, *UTILITY, "chance_uar"]
SETTING = ["attribute", "selection", "combination", "vantage", "aware", "nominal_epsilon", "name"]
COLUMNS = [*PLACE, *SETTING, *FIGURES, "speakers", "victims", "differs"]
MISSING = dict.fromkeys(
    ("auc", "ci95_auc", "uar_fixed", "uar_calibrated", "p_value", "speakers", "victims")
)
SHOWN_OVERRIDES = {
    *("experiment", "algorithm", "features", "privacy", "privacy.epsilon", "model.dropout"),
    "corpus",
}
"""Overrides that PLACE has a column for. The other overrides name the run."""
PUBLISHED = "published"
"""The study's attack, in the column of attacks."""


def our_rows(sweep_dir: Path, table: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """Collect the rows of a multirun.

    Parameters
    ----------
    sweep_dir : Path
        Folder that holds Hydra's run folders.
    table : str
        ``utility``, ``layers``, ``updates``, ``dropout`` or ``comparison``.

    Returns
    -------
    DataFrame
        COLUMNS, one row per attack record; for ``utility`` one row per run. Rows are in the order
        of the runs. Attacks that recognise speakers are left out. A failed run has the same rows
        as a finished run, without figures, so that it shows as empty cells.
    dict of str to str
        The problem of each run without results, by the name of the run.
    """
    runs = runs_below(sweep_dir)
    varied, read = read_runs(runs)
    expected = [attack | MISSING for results in finished(read)[:1] for attack in results["attacks"]]
    rows: list[dict[str, Any]] = []
    problems = {}
    for path, (name, overrides), results in zip(runs, varied.iterrows(), read, strict=True):
        run = run_label(overrides[[key for key in overrides.index if key not in SHOWN_OVERRIDES]])
        if isinstance(results, str):
            problems[run_label(overrides) or str(name)] = results
            config = read_config(path)
            shadows = {"shadow_corpora": _shadow_names(config.get("shadow"))}
            attacks = [attack | shadows for attack in expected]
        else:
            config, attacks = results["config"], results["attacks"]
        if config and table == "utility":
            rows.append(_utility_row(config, results, run))
        elif config:
            rows += _attack_rows(config, attacks, run, table)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame = frame.astype(dict.fromkeys(FIGURES, float))
    return frame.astype(dict.fromkeys(("speakers", "victims"), "Int64")), problems


def _shadow_names(shadow: Any) -> list[str]:
    """Return the corpora of the key `shadow`; none if the key is not resolved yet."""
    named = shadow if isinstance(shadow, list) else []
    return [n if isinstance(n, str) else n.get("name", n["corpus"]) for n in named]


def _place(config: Results, run: str) -> dict[str, Any]:
    privacy = config["privacy"]
    epsilon = privacy.get("epsilon")
    return {
        "run": run,
        "features": short_features_name(config),
        "algorithm": config["algorithm"]["name"],
        "privacy": privacy["mechanism"] + ("" if epsilon is None else f" {epsilon:g}"),
        "nominal_epsilon": None if privacy.get("nominal_delta") is None else epsilon,
        "dropout": config["model"]["dropout"],
        "private_corpus": config["corpus"]["name"],
    }


def _utility_row(config: Results, results: Results | str, run: str) -> dict[str, Any]:
    """Return the row of a run in the utility table."""
    row = _place(config, run) | {"attack": "ours", "shadow_corpora": ""}
    row["differs"] = ", ".join(differences(config, None, "utility"))
    if isinstance(results, str):
        return row
    for name in ("uar", "accuracy"):
        folds = fold_values(results, name)
        row |= {name: results["utility"][name], f"{name}_low": min(folds, default=None)}
        row |= {f"{name}_high": max(folds, default=None)}
    row |= {"speakers": results["speakers"], "victims": results["clients"]}
    return row | {"chance_uar": chance_uar(results)}


def _attack_rows(
    config: Results, attacks: list[AttackRecord], run: str, table: str
) -> Iterator[dict[str, Any]]:
    place = _place(config, run)
    inferring = [attack for attack in attacks if attack["across"] is None]
    for label, attack in _labelled(inferring, by_layer=table == "layers"):
        low, high = auc_bounds(attack)
        differs = ", ".join(differences(config, attack, table))
        own = {"attack": label, "auc_low": low, "auc_high": high, "differs": differs}
        shadows = {"shadow_corpora": "+".join(attack["shadow_corpora"])}
        yield {**attack, **place, **own, **shadows}


def _labelled(attacks: list[AttackRecord], by_layer: bool) -> Iterator[tuple[str, AttackRecord]]:
    """Yield each record with a label that is unique in its run, or in one layer of the run."""
    layers = dict.fromkeys(attack["layer"] for attack in attacks) if by_layer else [None]
    for layer in layers:
        group = [attack for attack in attacks if layer in (None, attack["layer"])]
        for label, records in attack_series(group).items():
            yield from ((label, record) for record in records)


def with_published(ours: pd.DataFrame, table: str, beside: tuple[str, ...]) -> pd.DataFrame:
    """Return the published rows above ours, with the column `origin`.

    Parameters
    ----------
    ours : DataFrame
        As returned by `our_rows`.
    beside : tuple of str
        Published rows are kept if ours have the same value in each of these columns.
    """
    own = ours.assign(origin="ours")
    if table not in published.FILES:
        return own
    theirs = published.read_published(table)
    if not set(ours["features"]) & {*published.FEATURES}:
        ours = ours.assign(features=published.EMOBASE)  # the closest published features
    if len(ours):
        for column in beside:
            theirs = theirs[theirs[column].isin(ours[column])]
    shadows = {
        corpus: "+".join(other for other in published.CORPORA if other != corpus)
        for corpus in published.CORPORA
    }
    theirs = theirs.assign(
        origin="published",
        attack=PUBLISHED,
        name=published.ATTACK,
        attribute="gender",
        shadow_corpora="" if table == "utility" else theirs["private_corpus"].map(shadows),
        differs="",
    )
    both = pd.concat([theirs.astype(object), own.astype(object)], ignore_index=True)
    return both[own.columns].astype(dict.fromkeys(FIGURES, float))
