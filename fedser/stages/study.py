"""A study: its stages in their order."""

import shutil
import time
from pathlib import Path
from typing import Any

from fedser.attacks.adversary.prepare import prepare_attacks
from fedser.client.speakers.corpus_data import CorpusData
from fedser.common.errors import (
    UserError,
)
from fedser.conf.build import build_group
from fedser.conf.schema import StudyConfig
from fedser.loggers.base import RunLog, RunPlace, flatten, logged
from fedser.results.files import Results, read_results, read_training, without_folders
from fedser.server.study.federations import remove_checkpoints
from fedser.server.study.run import (
    private_corpus,
    read_corpus,
)
from fedser.stages.attack import assemble_results, attack_run, audit_run
from fedser.stages.check import (
    check_adversary,
    check_audit,
    check_store,
    shadow_settings,
    show_corpus,
    show_sources,
)
from fedser.stages.report import finish
from fedser.stages.train import train


class AuditViolation(Exception):
    """The audit proved that more is given away than the accountant says."""


def run_study(config: StudyConfig, record: Any, folder: Path, sweep: Path | None = None) -> None:
    """Run the stages that a study asks for.

    Parameters
    ----------
    record : dict
        The configuration as it was composed. ``results.json`` and loggers get it without folders.
    folder : Path
        Where everything is written.
    sweep : Path, optional
        Folder of the multirun that it is a part of.
    """
    record = without_folders(record)
    logger = build_group("logger", config.logger)
    with logged(RunLog(logger, RunPlace(folder, sweep, flatten(record)))) as log:
        _run_stages(config, record, folder, log)


def _run_stages(config: StudyConfig, record: Any, folder: Path, log: RunLog) -> None:
    started = time.perf_counter()
    if config.stage == "report":
        finish(folder, read_results(folder / "results.json"), log, measured=False)
        return
    check_audit(config)
    if config.stage == "check":
        show_sources(config)
    trained = config.resume is not None and (folder / "training.json").exists()
    training_due = config.stage in ("all", "train") and not trained
    attacking = config.stage != "train" and bool(config.shadow and config.attack)
    if config.stage == "attack" and not attacking:
        raise UserError("stage=attack needs at least one corpus in shadow and one attack")
    check_store(config, attacking)
    learned = None
    with private_corpus(config, folder, training_due or config.stage == "check") as (data, nodes):
        shadows = load_shadows(config) if attacking else []
        classes = check_adversary(config, data, shadows) if attacking else []
        if config.stage in ("all", "check"):
            for corpus in (data, *shadows):
                show_corpus(corpus)
        if config.stage == "check":
            return
        if trained:
            remove_checkpoints(folder)  # the run may have been killed before it did
        if training_due:
            if config.transcript.store == "features":
                learned = prepare_attacks(config, data, shadows, classes)
            train(config, data, folder, learned, nodes, log)
    training = read_training(folder)
    audit = audit_run(config, data, folder) if config.stage != "train" else None
    figures, timing = (
        attack_run(config, data, shadows, classes, folder, learned) if attacking else ([], {})
    )
    timing["total_seconds"] = time.perf_counter() - started
    results = assemble_results(record, config.seed, training, figures, audit, timing)
    finish(folder, results, log, measured=True)
    end_study(config, results, folder)


def end_study(config: StudyConfig, results: Results, folder: Path) -> None:
    """Remove what is not to be kept of a finished run, and say if the audit failed."""
    if results["attacks"] and not config.keep_transcript:  # by now nobody needs it to go on
        shutil.rmtree(folder / "transcript", ignore_errors=True)
    if (audit := results["audit"]) and audit["violated"]:
        raise AuditViolation(
            "the audit measured more than the accountant allows: the mechanism is broken, see "
            f"audit in {folder / 'results.json'}"
        )


def load_shadows(config: StudyConfig) -> list[CorpusData]:
    """Read the shadow corpora: names in ``conf/corpus``, or mappings of keys to change.

    Raises
    ------
    UserError
        If an entry is malformed or two corpora have one name.
    """
    shadows = [read_corpus(settings, config) for settings in shadow_settings(config)]
    names = [data.name for data in shadows]
    if len(set(names)) < len(names):
        raise UserError(f"shadow: {', '.join(names)} are not distinct; set another name: on one")
    return shadows
