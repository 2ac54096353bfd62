"""Attacks of a sweep as rows of one frame: where each was run, and what came of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from fedser.reports.paper import published
from fedser.reports.sweep.points import run_label
from fedser.reports.sweep.sweep import read_config, read_runs, runs_below
from fedser.results.attacks import AttackRecord, attack_series
from fedser.results.files import Results
from fedser.results.utility import chance_uar

PLACE = [
    *("run", "features", "algorithm", "privacy", "dropout", "layer", "leaked_updates"),
    *("private_corpus", "shadow_corpora", "attack"),
]
"""Columns that tell one row from another."""
INFERENCE = ["auc", "auc_low", "auc_high", "uar_fixed", "uar_calibrated", "p_value"]
UTILITY = [name + end for name in ("uar", "accuracy") for end in ("", "_low", "_high")]
"""Means of the test folds, the lowest and the highest of them."""
FIGURES = [*INFERENCE, *UTILITY, "chance_uar"]
SETTING = ["attribute", "selection", "combination", "vantage", "aware", "nominal_epsilon", "name"]
COLUMNS = [*PLACE, *SETTING, *FIGURES, "speakers", "victims", "differs"]
MISSING = dict.fromkeys(
    ("auc", "ci95_auc", "uar_fixed", "uar_calibrated", "p_value", "speakers", "victims")
)
SHOWN_OVERRIDES = {
    "experiment",
    "algorithm",
    "features",
    "privacy",
    "privacy.epsilon",
    "model.dropout",
    "corpus",
}
"""Overrides that PLACE has a column for. Others name the run."""

LANGUAGES = {
    **dict.fromkeys((*published.CORPORA, "ravdess", "synthetic"), "English"),
    **dict.fromkeys(("nemo", "synthetic_pl"), "Polish"),
    **dict.fromkeys(("emodb", "synthetic_de"), "German"),
}
DIFFERENCES = {
    "attribute": "the study infers gender",
    "corpus": "the study's private corpora are iemocap, msp_improv and crema_d",
    "language": "the study's corpora are English",
    "shadow": "the study attacks each corpus from the other two",
    "vantage": "the study's adversary sees every update with its sender",
    "attack": "the study's attack model is a CNN",
    "examples": "the study's CNN learns from every shadow update",
    "features": "the study's features are emobase here, or those of another encoder",
    "normalisation": "the study normalises by speaker",
    "rounds": "the study trains for 200 rounds",
    "folds": "the study's figures are means of five folds",
    "dropout": "the study's models have dropout 0.2 here",
    "layer": "the study attacks the first layer here",
    "selection": "the study's updates leak at random",
    "combination": "the study attacks the mean of the updates",
    "aware": "the study's attack learns on updates without the mechanism",
    "metric": "the study gives UAR at a fixed threshold",
}
"""In what a row of ours may differ from the published ones."""


def sweep_records(sweep_dir: Path, table: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """Collect the attacks of a multirun.

    Parameters
    ----------
    sweep_dir : Path
        Folder whose subfolders are Hydra's run folders.
    table : str
        ``utility``, ``layers``, ``updates``, ``dropout`` or ``comparison``: what they are for.

    Returns
    -------
    DataFrame
        COLUMNS, a row an attack record, or for utility a row a run, in the order of the runs;
        attacks that recognise speakers again are left out. A run that failed has the rows of one
        that did not, without figures, so that it leaves empty cells.
    dict of str to str
        Why runs have no results, by the name of the run.
    """
    runs = runs_below(sweep_dir)
    varied, read = read_runs(runs)
    finished = [results for results in read if not isinstance(results, str)]
    expected = [attack | MISSING for results in finished[:1] for attack in results["attacks"]]
    rows: list[dict[str, Any]] = []
    problems = {}
    for path, (name, overrides), results in zip(runs, varied.iterrows(), read, strict=True):
        run = run_label(overrides[[key for key in overrides.index if key not in SHOWN_OVERRIDES]])
        if isinstance(results, str):
            problems[run_label(overrides) or str(name)] = results
            config = read_config(path)
            shadows = {"shadow_corpora": _named(config.get("shadow"))}
            attacks = [attack | shadows for attack in expected]
        else:
            config, attacks = results["config"], results["attacks"]
        if config and table == "utility":
            rows.append(_recognition(config, results, run))
        elif config:
            rows += _rows(config, attacks, run, table)
    records = pd.DataFrame(rows, columns=COLUMNS)
    records = records.astype(dict.fromkeys(FIGURES, float))
    return records.astype(dict.fromkeys(("speakers", "victims"), "Int64")), problems


def _named(shadow: Any) -> list[str]:
    """Name the corpora of the key `shadow`; none where that is to be resolved yet."""
    named = shadow if isinstance(shadow, list) else []
    return [n if isinstance(n, str) else n.get("name", n["corpus"]) for n in named]


def _place(config: Results, run: str) -> dict[str, Any]:
    privacy = config["privacy"]
    epsilon = privacy.get("epsilon")
    return {
        "run": run,
        "features": features_name(config),
        "algorithm": config["algorithm"]["name"],
        "privacy": privacy["mechanism"] + ("" if epsilon is None else f" {epsilon:g}"),
        "nominal_epsilon": epsilon if privacy["mechanism"] == "udp" else None,
        "dropout": config["model"]["dropout"],
        "private_corpus": config["corpus"]["name"],
    }


def features_name(config: Results) -> str:
    """Name the features of a run: a set, an upstream of s3prl or the folder of a model."""
    features = config.get("features") or {}
    told = (features.get(key) for key in ("feature_set", "upstream", "path"))
    return Path(next(filter(None, told), "")).name


def _recognition(config: Results, results: Results | str, run: str) -> dict[str, Any]:
    """Return what a run recognises of emotions, beside the utility table's other columns."""
    row = _place(config, run) | {"attack": "ours", "shadow_corpora": ""}
    row["differs"] = ", ".join(differences(config, None, "utility"))
    if isinstance(results, str):
        return row
    utility = results["utility"]
    for name in ("uar", "accuracy"):
        folds = [fold[name] for fold in utility["per_fold"] if fold[name] is not None]
        row |= {name: utility[name], f"{name}_low": min(folds, default=None)}
        row |= {f"{name}_high": max(folds, default=None)}
    row |= {"speakers": results["speakers"], "victims": results["clients"]}
    return row | {"chance_uar": chance_uar(results)}


def _rows(
    config: Results, attacks: list[AttackRecord], run: str, table: str
) -> Iterator[dict[str, Any]]:
    place = _place(config, run)
    inferring = [attack for attack in attacks if attack["across"] is None]
    for label, attack in _labelled(inferring, by_layer=table == "layers"):
        low, high = attack["ci95_auc"] or (None, None)
        differs = ", ".join(differences(config, attack, table))
        own = {"attack": label, "auc_low": low, "auc_high": high, "differs": differs}
        shadows = {"shadow_corpora": "+".join(attack["shadow_corpora"])}
        yield {**attack, **place, **own, **shadows}


def _labelled(attacks: list[AttackRecord], by_layer: bool) -> Iterator[tuple[str, AttackRecord]]:
    """Name attacks so that those of one run, or of one layer of it, are told apart."""
    layers = dict.fromkeys(attack["layer"] for attack in attacks) if by_layer else [None]
    for layer in layers:
        group = [attack for attack in attacks if layer in (None, attack["layer"])]
        for label, records in attack_series(group).items():
            yield from ((label, record) for record in records)


def differences(config: Results, attack: AttackRecord | None, table: str) -> list[str]:
    """In which of DIFFERENCES, the metric aside, a figure differs from the published ones.

    Parameters
    ----------
    attack : dict or None
        None: the figure is of emotion recognition.
    """
    private = config["corpus"]["name"]
    found = {
        "corpus": private not in published.CORPORA,
        "language": LANGUAGES.get(private) != "English",
        "features": features_name(config) not in published.FEATURES,
        "normalisation": config.get("normalisation") != "speaker",
        "rounds": config.get("rounds") != published.ROUNDS,
        "folds": len(config.get("folds") or []) != published.FOLDS,
        "dropout": table != "dropout" and config["model"]["dropout"] != published.DROPOUT,
    }
    if attack:
        found |= _attack_differences(config, attack, table)
    return [name for name in DIFFERENCES if found.get(name)]


def _attack_differences(config: Results, attack: AttackRecord, table: str) -> dict[str, bool]:
    private, shadows = config["corpus"]["name"], set(attack["shadow_corpora"])
    cnn = (config.get("attack") or {}).get("cnn") or {}
    several = attack["leaked_updates"] != 1
    return {
        "attribute": attack["attribute"] != "gender",
        "language": any(LANGUAGES.get(name) != "English" for name in {private, *shadows}),
        "shadow": shadows != set(published.CORPORA) - {private},
        "vantage": attack["vantage"] != "attributed",
        "attack": attack["name"] != published.ATTACK,
        "examples": attack["name"] == published.ATTACK and cnn.get("max_examples") is not None,
        "layer": table != "layers" and attack["layer"] != "first",
        "selection": attack["selection"] != "random",
        "combination": several and attack["combination"] != "updates",
        "aware": attack["aware"],
    }
