"""In what a run of ours differs from the published study."""

from pathlib import Path

from fedser.reports.paper import published
from fedser.reports.sweep.read_runs import features_name
from fedser.results.attacks import AttackRecord
from fedser.results.files import Results

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
    "features": "the study's features are emobase here, or the features of another encoder",
    "normalisation": "the study normalises by speaker",
    "rounds": "the study trains for 200 rounds",
    "folds": "the study's figures are means of five folds",
    "dropout": "the study's models have dropout 0.2 here",
    "layer": "the study attacks the first layer here",
    "selection": "the study's updates leak at random",
    "combination": "the study attacks the mean of the updates",
    "aware": "the study's attack learns from updates without the mechanism",
    "metric": "the study gives UAR at a fixed threshold",
}
"""Each possible difference, and what the study does."""


def differences(config: Results, attack: AttackRecord | None, table: str) -> list[str]:
    """Return the keys of DIFFERENCES, without "metric", that hold for a figure of ours.

    Parameters
    ----------
    config : dict
        Configuration of the run.
    attack : dict or None
        The attack record; None for a figure of emotion recognition.
    table : str
        Name of the table. What the table varies is no difference.
    """
    private = config["corpus"]["name"]
    found = {
        "corpus": private not in published.CORPORA,
        "language": LANGUAGES.get(private) != "English",
        "features": short_features_name(config) not in published.FEATURES,
        "normalisation": config.get("normalisation") != "speaker",
        "rounds": config.get("rounds") != published.ROUNDS,
        "folds": len(config.get("folds") or []) != published.FOLDS,
        "dropout": table != "dropout" and config["model"]["dropout"] != published.DROPOUT,
    }
    if attack:
        found |= _attack_differences(config, attack, table)
    return [name for name in DIFFERENCES if found.get(name)]


def short_features_name(config: Results) -> str:
    """Return the name of the features; of a model folder, the last part of its path."""
    return Path(features_name(config) or "").name


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
