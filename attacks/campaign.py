"""The adversary at work: rehearse, learn, score the victims; then the figures of it."""

import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from attacks import shadow
from attacks.audit import audit_figures
from attacks.evaluate import check_victims, evaluate_attack
from attacks.tap import Attack, Floats, tap
from client.errors import UserError, check_choice
from client.speakers import CorpusData
from conf.schema import StudyConfig
from server.federation import Federation
from server.privacy_config import CENTRAL, LOCAL
from server.run import build, run_canaries, run_federations
from server.study import private_federations
from server.transcript import Transcript

CHOICES = {"selection": ("random", "earliest", "latest"), "combination": ("mean", "sum")}
PACKAGES = ("fedser", "flwr", "numpy", "opensmile", "ray", "scikit-learn", "torch")


def check_adversary(
    config: StudyConfig, private: CorpusData, shadows: Sequence[CorpusData]
) -> list[str]:
    """Refuse, before anything is trained, an attack that could not be carried out.

    Returns
    -------
    list of str
        The two values of the attribute.

    Raises
    ------
    UserError
        Naming the key.
    """
    for key in ("draws", "shadow_federations", "bootstraps"):
        if getattr(config.adversary, key) < 1:
            raise UserError(f"adversary.{key} must be at least 1")
    for key, choices in CHOICES.items():
        check_choice(f"adversary.{key}", getattr(config.adversary, key), choices)
    for leaked in config.adversary.leaked_updates:
        if leaked != "all" and not (isinstance(leaked, int) and leaked >= 1):
            raise UserError(f"adversary.leaked_updates: {leaked} is neither a count nor all")
    shadow.refuse_overlap(private, shadows)
    classes = shadow.attribute_classes(shadows, config.adversary.attribute)
    check_victims(private, config.adversary.attribute, classes)
    return classes


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
    config: StudyConfig, shadows: Sequence[CorpusData], classes: Sequence[str], folder: Path
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Train every attack on shadow federations, turn it on the private ones and evaluate it."""
    attacks: list[Attack] = [build(settings) for settings in config.attack.values()]
    started = time.perf_counter()
    federations = shadow.shadow_federations(config, shadows, Path(config.cache))
    if absent := shadow.missing(federations):
        run_federations(absent, config.runtime)
        shadow.keep(absent)
    trained = time.perf_counter()
    _fit(attacks, federations, shadows, config.adversary.attribute, classes)
    scores = _score_victims(attacks, folder)
    recorded = Transcript(min((folder / "transcript").iterdir())).meta.layers
    figures = [
        {
            "name": attack.name,
            "attribute": config.adversary.attribute,
            "layer": recorded[0].rsplit(".", 1)[0],
            "shadow_corpora": [data.name for data in shadows],
            "aware": False,
            **entry,
        }
        for attack in attacks
        for entry in evaluate_attack(
            scores[attack.name], folder / "truth.parquet", classes, config.adversary, config.seed
        )
    ]
    done = time.perf_counter()
    return figures, {"shadow_seconds": trained - started, "attack_seconds": done - trained}


def _fit(
    attacks: Sequence[Attack],
    federations: Sequence[Federation],
    shadows: Sequence[CorpusData],
    attribute: str,
    classes: Sequence[str],
) -> None:
    numbers: dict[str, list[Floats]] = {attack.name: [] for attack in attacks}
    labels = []
    for federation in federations:
        of_client = shadow.client_labels(federation, shadows, attribute, classes)
        for chunk in tap(Transcript(federation.folder), attacks):
            for name, found in chunk.items():
                numbers[name].append(found.features)
            labels.append(of_client[found.client])
    for attack in attacks:
        attack.fit(np.concatenate(numbers.pop(attack.name)), np.concatenate(labels))


def _score_victims(attacks: Sequence[Attack], folder: Path) -> dict[str, pd.DataFrame]:
    """Score every update in the private transcripts; labels play no part."""
    rows: dict[str, list[pd.DataFrame]] = {attack.name: [] for attack in attacks}
    for path in sorted((folder / "transcript").iterdir()):
        for chunk in tap(Transcript(path), attacks):
            for attack in attacks:
                found = chunk[attack.name]
                columns = {"federation": path.name, "client": found.client, "round": found.round}
                score = attack.score(found.features)
                rows[attack.name].append(pd.DataFrame({**columns, "score": score}))
    return {name: pd.concat(parts) for name, parts in rows.items()}


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
