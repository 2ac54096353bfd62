"""The adversary at work: rehearse, learn, score the victims; then the figures of it."""

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from attacks import shadow
from attacks.audit import audit_figures
from attacks.evaluate import check_victims, evaluate_attack
from attacks.invariants import FIRST
from attacks.judge import Judged, Scores, join_scores, judge, judge_at_snapshots, judge_shadow
from attacks.learn import Shadow, View, fit_attacks, speaker_groups
from attacks.rehearsal import Cast, make_cast, victim_size
from attacks.reidentify import score_pairs
from attacks.tap import Ints
from attacks.verification import evaluate_verification
from client.errors import UserError, check_choice
from client.speakers import CorpusData
from conf.schema import StudyConfig
from server.federation import Protocol
from server.privacy_config import CENTRAL, LOCAL
from server.run import build, run_canaries, run_federations
from server.study import parameter_names, private_federations
from server.transcript import Transcript, choose_layers

CHOICES = {
    "vantage": ("attributed", "aggregate", "final"),
    "selection": ("random", "earliest", "latest"),
    "combination": ("updates", "statistics", "log_odds"),
}
PACKAGES = ("fedser", "flwr", "numpy", "opensmile", "ray", "scikit-learn", "torch")


def check_adversary(
    config: StudyConfig, private: CorpusData, shadows: Sequence[CorpusData]
) -> list[str]:
    """Refuse, before anything is trained, an attack that could not be carried out.

    Returns
    -------
    list of str
        The values of the attribute.

    Raises
    ------
    UserError
        Naming the key.
    """
    adversary = config.adversary
    for key in ("draws", "shadow_federations", "bootstraps"):
        if getattr(adversary, key) < 1:
            raise UserError(f"adversary.{key} must be at least 1")
    for key, choices in CHOICES.items():
        check_choice(f"adversary.{key}", getattr(adversary, key), choices)
    for leaked in adversary.leaked_updates:
        if leaked != "all" and not (isinstance(leaked, int) and leaked >= 1):
            raise UserError(f"adversary.leaked_updates: {leaked} is neither a count nor all")
    _check_layers(config)
    _check_attacks(config)
    shadow.refuse_overlap(private, shadows)
    classes = shadow.attribute_classes(shadows, adversary.attribute)
    if adversary.attribute != shadow.SPEAKER:
        check_victims(private, adversary.attribute, classes)
    if "fusion" in config.attack:
        labels = shadow.speaker_labels(shadows, adversary.attribute, classes)
        speaker_groups(labels, _corpora(shadows))
    return classes


def _check_layers(config: StudyConfig) -> None:
    names = parameter_names(config)
    recorded = choose_layers(config.transcript.layers, names, "transcript.layers")
    if not config.adversary.layers:
        raise UserError("adversary.layers names no layer; first is where most leaks")
    for layers in config.adversary.layers:
        if not set(choose_layers(layers, names, "adversary.layers")) <= set(recorded):
            raise UserError(
                f"adversary.layers: {layers} is not recorded by "
                f"transcript.layers={config.transcript.layers}; set transcript.layers=all"
            )


def _check_attacks(config: StudyConfig) -> None:
    """Refuse combinations of attacks with what the adversary knows or is after."""
    adversary, attacks = config.adversary, {n: build(a) for n, a in config.attack.items()}
    if fusion := attacks.get("fusion"):
        absent = [name for name in fusion.of if name not in attacks or name == "fusion"]
        if absent or not fusion.of:
            raise UserError(
                f"attack.fusion.of={fusion.of} must name some of the attacks of this run, "
                f"{', '.join(n for n in attacks if n != 'fusion') or 'of which there is none'}"
            )
        if adversary.attribute == shadow.SPEAKER:
            raise UserError("attack=fusion infers an attribute; it cannot recognise a speaker")
    if "snapshot" in attacks and not (
        adversary.vantage == "attributed" and adversary.initial_weights
    ):
        raise UserError(
            "attack=snapshot needs every round's model and each update with its sender: set "
            "adversary.vantage=attributed and adversary.initial_weights=true, or leave it out"
        )


def check_audit(config: StudyConfig) -> None:
    """Refuse an audit that could not be carried out.

    Raises
    ------
    UserError
        Naming the key.
    """
    audit = config.audit
    check_choice("audit.name", audit.name, ("none", "canary"))
    if audit.name == "canary" and config.privacy.mechanism not in (*LOCAL, *CENTRAL):
        raise UserError(
            f"audit=canary: privacy={config.privacy.mechanism} does not clip updates, so there is "
            f"no bound to audit; choose privacy={', '.join((*LOCAL, *CENTRAL))}"
        )
    if audit.canaries < 100 or audit.releases < 1 or not 0.5 < audit.confidence < 1:
        raise UserError("audit needs 100 canaries, 1 release and a confidence between 0.5 and 1")
    if not audit.magnitudes or min(audit.magnitudes) <= 0:
        raise UserError("audit.magnitudes must name norms above 0")


def audit_run(config: StudyConfig, private: CorpusData, folder: Path) -> dict[str, Any] | None:
    """Audit the mechanism as the first private federation applies it, if asked to."""
    if config.audit.name == "none":
        return None
    (first,) = private_federations(replace(config, folds=config.folds[:1]), private, folder)
    plan = first.protocol.plan
    evidence = run_canaries(first.protocol, first.dimension, config.audit, config.runtime)
    checks = [
        audit_figures(found, plan, config.audit.canaries, magnitude, config.audit.confidence)
        for magnitude, kinds in zip(config.audit.magnitudes, evidence, strict=True)
        for found in kinds
    ]
    return {"checks": checks, "violated": any(check["violated"] for check in checks)}


def attack_run(
    config: StudyConfig,
    private: CorpusData,
    shadows: Sequence[CorpusData],
    classes: Sequence[str],
    folder: Path,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Train every attack on shadow federations, turn it on the private ones and evaluate it."""
    started = time.perf_counter()
    protocols = {f.name: f.protocol for f in private_federations(config, private, folder)}
    plan = next(iter(protocols.values())).plan
    federations = shadow.shadow_federations(config, shadows, plan, Path(config.cache))
    if absent := shadow.missing(federations):
        run_federations(absent, config.runtime)
        shadow.keep(absent)
    trained = time.perf_counter()
    target = config.adversary.attribute
    labels = shadow.speaker_labels(shadows, target, classes)
    rehearsals = [
        Shadow(f.folder, labels[speakers := shadow.speaker_numbers(f.clients, shadows)], speakers)
        for f in federations
    ]
    entries: list[dict[str, Any]] = []
    for layers in config.adversary.layers:
        scores = _attack_layers(config, layers, shadows, labels, rehearsals, protocols, folder)
        for name, found in scores.items():
            rehearsed = name == "snapshot" or (name == "fusion" and "snapshot" in scores)
            about = {
                "name": name,
                "attribute": target,
                "layer": layers,
                "shadow_corpora": [data.name for data in shadows],
                "aware": config.adversary.aware or rehearsed,
                "vantage": config.adversary.vantage,
                "combination": config.adversary.combination,
                "selection": config.adversary.selection,
            }
            entries += [about | entry for entry in _evaluate(config, found, classes, folder)]
    done = time.perf_counter()
    return entries, {"shadow_seconds": trained - started, "attack_seconds": done - trained}


def _attack_layers(
    config: StudyConfig,
    layers: str,
    shadows: Sequence[CorpusData],
    labels: Ints,
    rehearsals: Sequence[Shadow],
    protocols: Mapping[str, Protocol],
    folder: Path,
) -> Scores:
    """Return every attack's scores of the victims, from these layers alone."""
    adversary, seed = config.adversary, config.seed
    attacks = {name: build(settings) for name, settings in config.attack.items()}
    fusion, snapshot = attacks.pop("fusion", None), attacks.pop("snapshot", None)
    paths = sorted((folder / "transcript").iterdir())
    recorded = Transcript(paths[0]).meta.layers
    parameters = choose_layers(layers, parameter_names(config), "adversary.layers")
    if not set(parameters) <= set(recorded):
        raise UserError(
            f"adversary.layers={layers}: the transcript holds {', '.join(recorded)} alone; run "
            "fedser with transcript.layers=all"
        )
    if f"{FIRST}.weight" not in parameters:
        snapshot = None
    fused = [name for name in fusion.of if name != "snapshot" or snapshot] if fusion else []
    view = View(adversary.vantage, parameters, adversary.initial_weights)
    groups = speaker_groups(labels, _corpora(shadows)) if fused else np.zeros(0, dtype=np.int64)
    fitted = fit_attacks(list(attacks.values()), rehearsals, view, groups, fused, seed)
    beside = [known for known in fitted if known.without]
    tasks = [delayed(judge)(path, fitted, view, adversary, seed) for path in paths]
    if snapshot:
        cast = _cast(config, shadows, labels, victim_size(paths, protocols[paths[0].name]))
        tasks += [
            delayed(judge_at_snapshots)(
                path, protocols[path.name], snapshot, cast, groups, beside, view, adversary
            )
            for path in paths
        ]
    elif fused:
        tasks.append(delayed(judge_shadow)(rehearsals[0], beside, groups, view, adversary, seed))
    workers = min(os.cpu_count() or 1, len(tasks))
    judged: list[Judged] = Parallel(n_jobs=workers)(tasks)
    victims = join_scores([found.victims for found in judged])
    if fused:
        rehearsed = join_scores([found.rehearsed for found in judged])
        victims["fusion"] = fusion.fuse(
            {name: rehearsed[name] for name in fused}, {name: victims[name] for name in fused}
        )
    return {name: victims[name] for name in config.attack if name in victims}


def _cast(
    config: StudyConfig, shadows: Sequence[CorpusData], labels: Ints, size: int | None
) -> Cast:
    """Return the adversary's speakers as clients of so many utterances."""
    whole = shadow.whole_speakers(shadows, config.seed, config.normalisation)
    speakers = shadow.speaker_numbers(whole, shadows)
    return make_cast(whole, labels[speakers], speakers, size, config.seed)


def _evaluate(
    config: StudyConfig, scores: pd.DataFrame, classes: Sequence[str], folder: Path
) -> list[dict[str, Any]]:
    """Return the figures of one attack's scores, for every number of leaked updates."""
    adversary, truth = config.adversary, folder / "truth.parquet"
    if adversary.attribute != shadow.SPEAKER:
        found = evaluate_attack(scores, truth, classes, adversary, config.seed)
        return [{"classes": list(classes), "across": None, **entry} for entry in found]
    pairs = score_pairs(scores)
    return [
        {"classes": [], "across": across, **entry}
        for across in ("rounds", "shards")
        for entry in evaluate_verification(pairs, truth, across, adversary.bootstraps, config.seed)
    ]


def _corpora(shadows: Sequence[CorpusData]) -> Ints:
    return np.repeat(np.arange(len(shadows)), [len(data.speakers) for data in shadows])


def assemble_results(
    record: Any,
    seed: int,
    training: dict[str, Any],
    figures: list[dict[str, Any]],
    audit: dict[str, Any] | None,
    timing: dict[str, float],
) -> dict[str, Any]:
    """Put together what `attacks/results.schema.json` describes."""
    return {
        "schema_version": 1,
        "config": record,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "seed": seed,
        "corpus": training["corpus"],
        "clients": training["clients"],
        "speakers": training["speakers"],
        "utility": training["utility"],
        "privacy": training["privacy"],
        "attacks": figures,
        "audit": audit,
        "timing": {
            "rounds_per_second": training["rounds_per_second"],
            "train_seconds": training["seconds"],
            "shadow_seconds": timing.get("shadow_seconds"),
            "attack_seconds": timing.get("attack_seconds"),
            "total_seconds": timing["total_seconds"],
        },
    }
