"""The adversary at work: learn, score the victims; then the figures of it."""

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

from fedser.attacks.adversary import shadow_federations as shadow
from fedser.attacks.adversary.own_speakers import ShadowClients, make_shadow_clients, victim_size
from fedser.attacks.adversary.prepare import LayerAttacks, PreparedAttacks, prepare_attacks
from fedser.attacks.adversary.reidentify import score_pairs
from fedser.attacks.adversary.score import (
    Scores,
    ScoreTables,
    join_scores,
    score_at_snapshots,
    score_private,
    score_shadow,
)
from fedser.attacks.adversary.score_online import score_stored_numbers
from fedser.attacks.evaluation.attribute import evaluate_attack
from fedser.attacks.evaluation.audit import evaluate_audit
from fedser.attacks.evaluation.reidentification import evaluate_reidentification
from fedser.client.speakers.corpus_data import CorpusData
from fedser.common.arrays import Ints
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
    audited = run_canaries(protocol, dimension, config.audit, config.runtime.simulated)
    return evaluate_audit(audited, protocol.plan, config.audit)


def attack_run(
    config: StudyConfig,
    protocols: Mapping[str, Protocol],
    shadows: Sequence[CorpusData],
    classes: Sequence[str],
    folder: Path,
    learned: PreparedAttacks | None = None,
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Train every attack on shadow federations, turn it on the private ones and evaluate it.

    Parameters
    ----------
    protocols : mapping of str to Protocol
        Protocol of each private federation, by its name.
    learned : PreparedAttacks, optional
        Where the attacks were trained before the victims were.
    """
    paths = sorted((folder / "transcript").iterdir())
    meta = Transcript(paths[0]).meta
    if meta.numbers:
        check_store(replace(config, transcript=replace(config.transcript, store="features")), True)
    else:
        _check_recorded(config, meta)
    plan = protocols[paths[0].name].plan
    learned = learned or prepare_attacks(config, plan, shadows, classes, meta.numbers)
    started = time.perf_counter()
    entries: list[dict[str, Any]] = []
    for lesson in learned.lessons:
        if meta.numbers:
            tasks = [
                delayed(score_stored_numbers)(p, lesson, config.adversary, config.seed)
                for p in paths
            ]
        else:
            tasks = _judges(config, learned, lesson, protocols, paths)
        scores = _score(config, learned, lesson, tasks)
        for name, found in scores.items():
            rehearsed = name == "snapshot" or (name == "fusion" and "snapshot" in scores)
            about = {
                "name": name,
                "attribute": config.adversary.attribute,
                "layer": lesson.layers,
                "shadow_corpora": [data.name for data in shadows],
                "aware": config.adversary.aware or rehearsed,
                "vantage": config.adversary.vantage,
                "combination": config.adversary.combination,
                "selection": config.adversary.selection,
            }
            entries += [about | entry for entry in _evaluate(config, found, classes, folder)]
    shadow_seconds, fit_seconds = learned.seconds
    attack_seconds = fit_seconds + time.perf_counter() - started
    if not config.keep_shadows:
        for rehearsal in learned.rehearsals:
            shutil.rmtree(rehearsal.folder, ignore_errors=True)  # another run was faster
    return entries, {"shadow_seconds": shadow_seconds, "attack_seconds": attack_seconds}


def _check_recorded(config: StudyConfig, meta: TranscriptMeta) -> None:
    """Refuse to look at layers that an earlier run did not record."""
    for layers in config.adversary.layers:
        parameters = choose_layers(layers, parameter_names(config), "adversary.layers")
        if not set(parameters) <= set(meta.layers):
            raise UserError(
                f"adversary.layers={layers}: the transcript holds {', '.join(meta.layers)} alone; "
                "run fedser with transcript.layers=all"
            )


def _judges(
    config: StudyConfig,
    learned: PreparedAttacks,
    lesson: LayerAttacks,
    protocols: Mapping[str, Protocol],
    paths: Sequence[Path],
) -> list[Any]:
    """Return the tasks that score the victims by their updates."""
    adversary, view, snapshot = config.adversary, lesson.view, lesson.snapshot
    tasks = [
        delayed(score_private)(path, lesson.fitted, view, adversary, config.seed) for path in paths
    ]
    if snapshot:
        size = victim_size(paths, protocols[paths[0].name])
        cast = _cast(config, learned.shadows, learned.labels, size)
        tasks += [
            delayed(score_at_snapshots)(
                path,
                protocols[path.name],
                snapshot,
                cast,
                lesson.groups,
                lesson.beside,
                view,
                adversary,
            )
            for path in paths
        ]
    return tasks


def _score(
    config: StudyConfig, learned: PreparedAttacks, lesson: LayerAttacks, tasks: Sequence[Any]
) -> Scores:
    """Return every attack's scores of the victims, from some layers alone."""
    fusion, fused = lesson.fusion, lesson.fused
    if fused and not lesson.snapshot:
        own = learned.rehearsals[0], lesson.beside, lesson.groups, lesson.view
        tasks = [*tasks, delayed(score_shadow)(*own, config.adversary, config.seed)]
    workers = min(cores(), len(tasks))
    judged: list[ScoreTables] = list(side_by_side(tasks, workers))
    victims = join_scores([found.victims for found in judged])
    if fusion and fused:
        rehearsed = join_scores([found.rehearsed for found in judged])
        victims["fusion"] = fusion.fuse(
            {name: rehearsed[name] for name in fused}, {name: victims[name] for name in fused}
        )
    return {name: victims[name] for name in config.attack if name in victims}


def _cast(
    config: StudyConfig, shadows: Sequence[CorpusData], labels: Ints, size: int | None
) -> ShadowClients:
    """Return the adversary's speakers as clients of so many utterances."""
    whole = shadow.whole_speakers(shadows, config.seed, config.normalisation)
    speakers = shadow.speaker_numbers(whole, shadows)
    return make_shadow_clients(whole, labels[speakers], speakers, size, config.seed)


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
