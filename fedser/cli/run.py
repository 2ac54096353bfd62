"""The study that Hydra composed: in which folder it runs, and how the command ends."""

import shutil
import sys
from contextlib import suppress
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedser.cli.earlier import earlier_overrides, must_be_given_again
from fedser.cli.sweep_jobs import note_crash, note_failure, take_up
from fedser.common.console import console, plain, say
from fedser.common.errors import (
    BAD_INPUT,
    SUSPENDED,
    Suspended,
    UserError,
    os_problem,
)
from fedser.common.processes import end_with_parent
from fedser.common.quoting import pasted
from fedser.common.run_folder import alone, is_used, remove_run
from fedser.common.signals import Interrupted, spare_children
from fedser.conf.messages import explain
from fedser.conf.overrides import override
from fedser.conf.run_record import note_command, note_run, refuse_changes, refuse_used
from fedser.conf.schema import StudyConfig
from fedser.reports.run_page import write_report
from fedser.reports.sweep.find_runs import find_runs, globs
from fedser.server.study.run import (
    study_config,
)
from fedser.stages.report import show_sweep
from fedser.stages.study import AuditViolation, end_study, run_study

AUDIT_VIOLATED = 3


def run_composed(composed: DictConfig) -> None:
    """Run the study that Hydra composed, in the folder that it made; bad input ends the process."""
    if starter := parent_process():  # hydra/launcher=joblib runs jobs in workers of its own
        end_with_parent(starter.pid or 0)
    earlier = composed.run or composed.resume
    folder = Path(earlier or HydraConfig.get().runtime.output_dir).absolute()
    if composed.runs is not None:
        _report_runs(composed, folder)
        return
    try:
        with alone(folder):
            _run_alone(composed, folder)
    except Suspended as error:
        say(str(error))
        sys.exit(SUSPENDED)
    except UserError as error:  # nothing was done in the folder, which is another's
        say(str(error))
        sys.exit(BAD_INPUT)


def _run_alone(composed: DictConfig, folder: Path) -> None:
    """Run a study in a folder where no other process works."""
    earlier = composed.run or composed.resume
    before = set(folder.iterdir())
    try:
        spare_children()
        if earlier is not None:
            composed = _recompose(folder, composed.stage)
        elif _is_job() and not is_used(folder):  # at once: tables name a job that is refused, too
            note_command(folder, composed, HydraConfig.get().overrides.task)
            before = set(folder.iterdir())
        config, record = study_config(composed), OmegaConf.to_container(composed, resolve=True)
        if earlier is not None:
            _check_earlier(config, record, folder)
        elif _is_job() and config.stage in ("all", "train"):
            _run_job(config, record, folder)
            return
        elif config.stage != "check":
            refuse_used(folder)
            note_command(folder, composed, HydraConfig.get().overrides.task)
            note_run(folder, record)
        run_study(config, record, folder, _sweep_dir())
    except Interrupted as stop:  # of a sweep, too
        say(f"interrupted: {_again(folder, earlier)}")
        sys.exit(stop.status)
    except AuditViolation as error:
        _end(say(str(error)), AUDIT_VIOLATED, folder)
    except Suspended as error:  # what is there is what it goes on from
        _end(say(f"{error}: {_again(folder, earlier)}"), SUSPENDED, folder)
    except UserError as error:
        _remove_all_but(folder, before)
        _end(say(str(error)), BAD_INPUT, folder)
    except (HydraException, OmegaConfBaseException) as error:
        _remove_all_but(folder, before)
        _end(say(explain(error)), BAD_INPUT, folder)
    except OSError as error:
        line = f"{os_problem(error)}: {_again(folder, earlier)}"
        _end(say(line), SUSPENDED, folder)
    except Exception as error:  # such as a lack of memory; the other jobs of a sweep may do
        if not _is_job():
            raise
        print(f"fedser: {note_crash(folder, error)}", file=sys.stderr)
    finally:
        remove_run(folder, Path.cwd() / "outputs")


def _check_earlier(config: StudyConfig, record: Any, folder: Path) -> None:
    """Refuse what would mix two runs in the folder of an earlier one."""
    if config.run and config.resume:
        raise UserError("run goes without resume: set one of them")
    if config.run and config.stage in ("all", "train"):
        raise UserError(
            f"stage={config.stage} takes no run: set stage=attack or stage=report, or "
            "resume=FOLDER to go on with its training"
        )
    if config.stage != "report":
        refuse_changes(folder, record)


def _again(folder: Path, earlier: str | None) -> str:
    """Return the command that goes on with a run: this one where it works on an earlier run."""
    if earlier is not None or not is_used(folder):
        return pasted(["fedser", *sys.argv[1:]])
    config = HydraConfig.get()
    given = [s.path for s in config.runtime.config_sources if s.provider == "command-line"]
    searched = [o for o in config.overrides.hydra if o.startswith("hydra.searchpath=")]
    options = [part for path in given for part in ("--config-dir", path)]
    again = must_be_given_again(config.overrides.task)
    return pasted(["fedser", *options, *searched, override("resume", folder), *again])


def _is_job() -> bool:
    return HydraConfig.get().mode is RunMode.MULTIRUN


def _run_job(config: StudyConfig, record: Any, folder: Path) -> None:
    """Run a job of a sweep, or what an earlier command left to do of it."""
    found = take_up(config, record, folder)
    if isinstance(found, StudyConfig):
        run_study(found, record, folder, _sweep_dir())
        return
    console.print(plain(f"{folder}: finished before"), soft_wrap=True)
    if not (folder / "report.html").exists():
        write_report(folder)
    end_study(config, found, folder)


def _sweep_dir() -> Path | None:
    """Return the folder of the multirun that this run is a part of."""
    return Path(HydraConfig.get().sweep.dir).absolute() if _is_job() else None


def _report_runs(composed: DictConfig, folder: Path) -> None:
    """Write the page over runs that others made, and may still be making."""
    try:
        if composed.stage != "report":
            raise UserError(f"stage={composed.stage} takes no runs; set stage=report")
        if composed.run or composed.resume:
            raise UserError("runs goes without run and resume: it names folders of its own")
        show_sweep(folder, find_runs(globs(composed.runs), exclude=folder))
    except UserError as error:
        remove_run(folder, Path.cwd() / "outputs")
        _end(say(str(error)), BAD_INPUT, folder)
    except OSError as error:
        _end(say(os_problem(error)), SUSPENDED, folder)


def _end(line: str, status: int, folder: Path) -> None:
    """End a run that failed; in a multirun leave the reason, and let the others run."""
    if _is_job():
        with suppress(OSError):  # the disk may be full, and the line is printed
            note_failure(folder, line)
        return
    sys.exit(status)  # raised further, Hydra would add a line of its own


def _recompose(folder: Path, stage: str) -> DictConfig:
    """Compose an earlier run's configuration anew, changed by this command's overrides."""
    given = list(HydraConfig.get().overrides.task)
    # A report shows what was found, whatever the run was made from.
    earlier = earlier_overrides(folder, given, whole=stage != "report")
    composed = hydra.compose("config", overrides=[*earlier, *given])
    for key in OmegaConf.missing_keys(composed) if stage == "report" else ():
        OmegaConf.update(composed, key, None)
    return composed


def _remove_all_but(folder: Path, before: set[Path]) -> None:
    """Leave nothing half-written."""
    for path in set(folder.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
