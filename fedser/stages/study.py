"""Run the stages of a study in their order: check, train, attack, audit and report."""

import shutil
import time
from pathlib import Path
from typing import Any

from fedser.attacks.adversary.prepare import prepare_attacks
from fedser.attacks.adversary.score_online import with_readers
from fedser.client.speakers.corpus_data import CorpusData
from fedser.common.console import console, plain
from fedser.common.errors import UserError
from fedser.conf.build import build_group
from fedser.conf.schema import StudyConfig
from fedser.loggers.base import RunLog, RunPlace, flat_settings, logged
from fedser.results.files import Results, read_results, read_training, without_folders
from fedser.server.privacy.statement import noise_warning
from fedser.server.study.federations import private_federations
from fedser.server.study.files import remove_checkpoints
from fedser.server.study.public import public_model, with_public
from fedser.server.study.run import private_corpus, read_corpus
from fedser.stages.attack import assemble_results, attack_run, audit_run
from fedser.stages.check import (
    check_adversary,
    check_audit,
    check_store,
    shadow_settings,
    show_corpus,
    show_sources,
)
from fedser.stages.plan import plan_study
from fedser.stages.report import report_run
from fedser.stages.train import train


class AuditViolation(Exception):
    """The audit proved that a run reveals more than its accountant states."""


def run_study(config: StudyConfig, record: Any, folder: Path, sweep: Path | None = None) -> None:
    """Run the stages that the configuration asks for.

    Parameters
    ----------
    record : dict
        The composed configuration. ``results.json`` and loggers get it without folders.
    folder : Path
        Where everything is written.
    sweep : Path, optional
        Folder of the sweep that the run is a part of.

    Raises
    ------
    AuditViolation
        After everything is written, if the audit failed.
    """
    record = without_folders(record)
    logger = build_group("logger", config.logger)
    with logged(RunLog(logger, RunPlace(folder, sweep, flat_settings(record)))) as log:
        if config.stage == "report":
            report_run(folder, read_results(folder / "results.json"), log, measured=False)
        else:
            _run_stages(config, record, folder, log)


def _run_stages(config: StudyConfig, record: Any, folder: Path, log: RunLog) -> None:
    """Run all stages but a report alone."""
    if config.stage == "plan":
        plan_study(config)
        return
    started = time.perf_counter()
    attacking = config.stage != "train" and bool(config.shadow and config.attack)
    _check_stages(config, attacking)
    trained = config.resume is not None and (folder / "training.json").exists()
    training = config.stage in ("all", "train") and not trained
    prepared = None
    public = public_model(config, folder, save=training)
    with private_corpus(config, folder, training or config.stage == "check") as (data, nodes):
        data = with_public(data, public)
        shadows = [with_public(s, public) for s in _load_shadows(config)] if attacking else []
        classes = check_adversary(config, data, shadows) if attacking else []
        if config.stage in ("all", "check"):
            for corpus in (data, *shadows):
                show_corpus(corpus)
        if config.stage == "check":
            return
        if trained:
            remove_checkpoints(folder)  # a run that was killed after training may have left some
        federations = private_federations(config, data, folder)
        protocols = {federation.name: federation.protocol for federation in federations}
        first, dimension = federations[0].protocol, federations[0].dimension
        if training and config.transcript.store == "features":
            prepared = prepare_attacks(config, first.plan, shadows, classes)
            federations = with_readers(config, prepared, federations)
        if training:
            if warning := noise_warning(first.plan):
                console.print(plain(warning), soft_wrap=True)
            train(config, data, federations, folder, nodes, log)
    del federations  # their features take much memory, and the attacks do not read them
    summary = read_training(folder)
    audit = audit_run(config, first, dimension) if config.stage != "train" else None
    attacks, timing = (
        attack_run(config, protocols, shadows, classes, folder, prepared) if attacking else ([], {})
    )
    timing["total_seconds"] = time.perf_counter() - started
    results = assemble_results(record, config.seed, summary, attacks, audit, timing)
    report_run(folder, results, log, measured=True)
    end_study(config, results, folder)


def _check_stages(config: StudyConfig, attacking: bool) -> None:
    """Reject stages that cannot be carried out, before any corpus is read."""
    check_audit(config)
    if config.stage == "check":
        show_sources(config)
    if config.stage == "attack" and not attacking:
        raise UserError("stage=attack needs at least one corpus in shadow and one attack")
    check_store(config, attacking)


def end_study(config: StudyConfig, results: Results, folder: Path) -> None:
    """Remove the transcript of a finished run if it must not be kept, and check the audit.

    Raises
    ------
    AuditViolation
        If the audit measured more leakage than the accountant allows.
    """
    if results["attacks"] and not config.keep_transcript:  # the results exist: nothing reads it
        shutil.rmtree(folder / "transcript", ignore_errors=True)
    if (audit := results["audit"]) and audit["violated"]:
        raise AuditViolation(
            "the audit measured more leakage than the accountant allows, so the mechanism is "
            f"broken; see audit in {folder / 'results.json'}"
        )


def _load_shadows(config: StudyConfig) -> list[CorpusData]:
    """Read the shadow corpora; raises UserError if two of them have one name."""
    shadows = [read_corpus(settings, config) for settings in shadow_settings(config)]
    names = [data.name for data in shadows]
    if len(set(names)) < len(names):
        raise UserError(
            f"shadow: two of the corpora {', '.join(names)} have one name; set name: to another "
            "name on one of them"
        )
    return shadows
