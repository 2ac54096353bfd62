"""The stage that attacks a trained run, evaluates the attacks and audits the mechanism."""

import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import delayed

from fedser.attacks.adversary import shadow_federations
from fedser.attacks.adversary.own_speakers import ShadowClients, make_shadow_clients, victim_size
from fedser.attacks.adversary.prepare import LayerAttacks, PreparedAttacks, prepare_attacks
from fedser.attacks.adversary.reidentify import score_pairs
from fedser.attacks.adversary.score import (
    AttackScores,
    ScoreTables,
    join_scores,
    score_private,
    score_shadow,
)
from fedser.attacks.adversary.score_on_models import score_on_models
from fedser.attacks.adversary.score_online import score_stored_values
from fedser.attacks.evaluation.attribute import evaluate_attack
from fedser.attacks.evaluation.reidentification import evaluate_reidentification
from fedser.client.speakers.clients import whole_speakers
from fedser.client.speakers.corpus_data import CorpusData
from fedser.common.errors import UserError
from fedser.common.processes import side_by_side
from fedser.common.threads import cores
from fedser.conf.schema import StudyConfig
from fedser.server.federation.federation import Protocol
from fedser.server.study.federations import parameter_names
from fedser.server.study.run import run_canaries
from fedser.server.transcript.transcript import Transcript, TranscriptMeta, choose_layers
from fedser.stages.check import check_store

PACKAGES = ("fedser", "flwr", "numpy", "opensmile", "ray", "scikit-learn", "torch")


def audit_run(config: StudyConfig, protocol: Protocol, dimension: int) -> dict[str, Any] | None:
    """Audit the mechanism as the first private federation applies it, if asked to."""
    if config.audit.name == "none":
        return None
    from fedser.attacks.evaluation.audit import evaluate_audit  # slow to import, with scipy.stats

    audited = run_canaries(protocol, dimension, config.audit, config.runtime.simulated)
    return evaluate_audit(audited, protocol.plan, config.audit)


def attack_run(
    config: StudyConfig,
    protocols: Mapping[str, Protocol],
    shadows: Sequence[CorpusData],
    classes: Sequence[str],
    folder: Path,
    prepared: PreparedAttacks | None = None,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Score the victims of a run with every attack, and evaluate the scores.

    Parameters
    ----------
    protocols : mapping of str to Protocol
        Protocol of each private federation, by its name.
    prepared : PreparedAttacks, optional
        The attacks, if they were prepared before the training; otherwise they are prepared here.

    Returns
    -------
    tuple of list and dict
        The entries of ``attacks`` in ``results.json``, and seconds for its ``timing``.
    """
    paths = sorted((folder / "transcript").iterdir())
    meta = Transcript(paths[0]).meta
    if meta.numbers:
        check_store(replace(config, transcript=replace(config.transcript, store="features")), True)
    else:
        _check_recorded(config, meta)
    plan = protocols[paths[0].name].plan
    prepared = prepared or prepare_attacks(config, plan, shadows, classes, meta.numbers)
    started = time.perf_counter()
    entries: list[dict[str, Any]] = []
    for attacks in prepared.layer_attacks:
        if meta.numbers:
            tasks = [
                delayed(score_stored_values)(path, attacks, config.adversary, config.seed)
                for path in paths
            ]
        else:
            tasks = _scoring_tasks(config, prepared, attacks, protocols, paths)
        for name, scores in _score(config, prepared, attacks, tasks).items():
            about = _describe(config, shadows, attacks, name)
            entries += [about | entry for entry in _evaluate(config, scores, classes, folder)]
    shadow_seconds, fit_seconds = prepared.seconds
    attack_seconds = fit_seconds + time.perf_counter() - started
    if not config.keep_shadows:
        for federation in prepared.federations:
            shutil.rmtree(federation.folder, ignore_errors=True)  # another run was faster
    return entries, {"shadow_seconds": shadow_seconds, "attack_seconds": attack_seconds}


def _describe(
    config: StudyConfig, shadows: Sequence[CorpusData], attacks: LayerAttacks, name: str
) -> dict[str, Any]:
    """Return the part of an entry of ``results.json`` that describes the attack."""
    adversary = config.adversary
    return {
        "name": name,
        "attribute": adversary.attribute,
        "layer": attacks.layers,
        "shadow_corpora": [data.name for data in shadows],
        "aware": adversary.aware or name in attacks.aware,
        "vantage": adversary.vantage,
        "combination": adversary.combination,
        "selection": adversary.selection,
    }


def _check_recorded(config: StudyConfig, meta: TranscriptMeta) -> None:
    """Reject layers of single updates that the attacked run did not record.

    Models are recorded with all layers.
    """
    if config.adversary.vantage != "attributed":
        return
    for layers in config.adversary.layers:
        parameters = choose_layers(layers, parameter_names(config), "adversary.layers")
        if not set(parameters) <= set(meta.layers):
            raise UserError(
                f"adversary.layers={layers}: the transcript holds only {', '.join(meta.layers)}; "
                "start a new run with transcript.layers=all"
            )


def _scoring_tasks(
    config: StudyConfig,
    prepared: PreparedAttacks,
    attacks: LayerAttacks,
    protocols: Mapping[str, Protocol],
    paths: Sequence[Path],
) -> list[Any]:
    """Return the tasks that score the victims by their stored updates."""
    adversary = config.adversary
    tasks = [delayed(score_private)(path, attacks, adversary, config.seed) for path in paths]
    if attacks.on_models:
        size = victim_size(paths, protocols[paths[0].name])
        clients = _shadow_clients(config, prepared, size)
        tasks += [
            delayed(score_on_models)(
                path, attacks, attack, clients, protocols[path.name], adversary
            )
            for attack in attacks.on_models
            for path in paths
        ]
    return tasks


def _score(
    config: StudyConfig, prepared: PreparedAttacks, attacks: LayerAttacks, tasks: Sequence[Any]
) -> AttackScores:
    """Return the scores of the victims by every attack on these layers."""
    if attacks.held_out and not attacks.on_models:
        shadow_federation = prepared.federations[0]
        task = delayed(score_shadow)(shadow_federation, attacks, config.adversary, config.seed)
        tasks = [*tasks, task]
    workers = min(cores(), len(tasks))
    tables: list[ScoreTables] = list(side_by_side(tasks, workers))
    victims = join_scores([found.victims for found in tables])
    shadow = join_scores([found.shadow for found in tables])
    for attack in attacks.on_scores:
        of = [name for name in attack.of if name in victims]
        if of:
            victims[attack.name] = attack.fuse(
                {name: shadow[name] for name in of}, {name: victims[name] for name in of}
            )
    return {name: victims[name] for name in config.attack if name in victims}


def _shadow_clients(
    config: StudyConfig, prepared: PreparedAttacks, size: int | None
) -> ShadowClients:
    """Return one client per shadow speaker, with `size` utterances; None: with all."""
    shadows = prepared.shadows
    whole = whole_speakers(shadows, config.seed, config.normalisation)
    speakers = shadow_federations.speaker_numbers(whole, shadows)
    return make_shadow_clients(whole, prepared.labels[speakers], speakers, size, config.seed)


def _evaluate(
    config: StudyConfig, scores: pd.DataFrame, classes: Sequence[str], folder: Path
) -> list[dict[str, Any]]:
    """Return the figures of one attack, for every number of leaked updates."""
    adversary, truth = config.adversary, folder / "truth.parquet"
    if adversary.attribute != shadow_federations.SPEAKER:
        found = evaluate_attack(scores, truth, classes, adversary, config.seed)
        return [{"classes": list(classes), "across": None, **entry} for entry in found]
    pairs = score_pairs(scores)
    return [
        {"classes": [], "across": across, **entry}
        for across in ("rounds", "shards")
        for entry in evaluate_reidentification(
            pairs, truth, across, adversary.bootstraps, config.seed
        )
    ]


def assemble_results(
    record: Any,
    seed: int,
    training: dict[str, Any],
    figures: list[dict[str, Any]],
    audit: dict[str, Any] | None,
    timing: dict[str, float],
) -> dict[str, Any]:
    """Return the results of a run, in the form of `fedser/results/results.schema.json`."""
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
