"""Run the study that Hydra composed: choose its folder, and end the command with one line."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedser.cli.earlier_run import earlier_overrides, overrides_to_repeat
from fedser.cli.sweep_jobs import begin_job, note_crash, note_failure
from fedser.common.console import console, plain
from fedser.common.errors import BAD_INPUT, SUSPENDED, Suspended, UserError, os_problem, say
from fedser.common.processes import end_with_parent
from fedser.common.quoting import pasted
from fedser.common.run_folder import alone, is_used, remove_run
from fedser.common.signals import Interrupted, spare_children
from fedser.conf.messages import explain
from fedser.conf.overrides import override
from fedser.conf.run_record import note_command, note_run, reject_changes, reject_used
from fedser.conf.schema import StudyConfig
from fedser.reports.sweep.find_runs import find_runs, globs
from fedser.server.study.run import study_config
from fedser.stages.report import report_runs
from fedser.stages.study import AuditViolation, end_study, run_study

AUDIT_VIOLATED = 3
"""Exit status if the audit measured more leakage than the accountant allows."""


def run_composed(composed: DictConfig) -> None:
    """Run the study that Hydra composed, in its folder; bad input ends the process."""
    if starter := parent_process():  # hydra/launcher=joblib runs jobs in worker processes
        end_with_parent(starter.pid or 0)
    earlier = composed.run or composed.resume
    folder = Path(earlier or HydraConfig.get().runtime.output_dir).absolute()
    if composed.runs is not None:
        _report_earlier_runs(composed, folder)
        return
    try:
        with alone(folder):
            existing = set(folder.iterdir())
            with _errors_end_command(folder, earlier, existing):
                _run_in_folder(composed, folder, existing)
    except Suspended as error:
        say(str(error))
        sys.exit(SUSPENDED)
    except UserError as error:  # another process works in the folder, so nothing was changed
        say(str(error))
        sys.exit(BAD_INPUT)


def _run_in_folder(composed: DictConfig, folder: Path, existing: set[Path]) -> None:
    """Run a study in a folder that no other process works in.

    Parameters
    ----------
    existing : set of Path
        Files and folders to keep if the command fails. The notes on a run of a sweep are added.
    """
    spare_children()
    earlier = composed.run or composed.resume
    if earlier is not None:
        composed = _recompose(folder, composed.stage)
    elif _in_sweep() and not is_used(folder):
        # Before the configuration is checked: tables also show runs that were rejected.
        note_command(folder, composed, HydraConfig.get().overrides.task)
        existing.update(folder.iterdir())
    config, record = study_config(composed), OmegaConf.to_container(composed, resolve=True)
    if earlier is not None:
        _check_earlier(config, record, folder)
    elif _in_sweep() and config.stage in ("all", "train"):
        _run_job(config, record, folder)
        return
    elif config.stage not in ("check", "plan"):
        reject_used(folder)
        note_command(folder, composed, HydraConfig.get().overrides.task)
        note_run(folder, record)
    run_study(config, record, folder, _sweep_dir())


@contextmanager
def _errors_end_command(folder: Path, earlier: str | None, existing: set[Path]) -> Iterator[None]:
    """Print an error in one line and end the command; in a sweep the other runs continue."""
    try:
        yield
    except Interrupted as stop:  # ends a sweep, too
        say(f"interrupted; go on with: {_resume_command(folder, earlier)}")
        sys.exit(stop.status)
    except AuditViolation as error:
        _end_run(say(str(error)), AUDIT_VIOLATED, folder)
    except Suspended as error:  # the run can be resumed from its files
        _end_run(say(f"{error}: {_resume_command(folder, earlier)}"), SUSPENDED, folder)
    except UserError as error:
        _remove_new(folder, existing)
        _end_run(say(str(error)), BAD_INPUT, folder)
    except (HydraException, OmegaConfBaseException) as error:
        _remove_new(folder, existing)
        _end_run(say(explain(error)), BAD_INPUT, folder)
    except OSError as error:
        line = f"{os_problem(error)}: {_resume_command(folder, earlier)}"
        _end_run(say(line), SUSPENDED, folder)
    except Exception as error:  # such as a lack of memory: other runs of a sweep may succeed
        if not _in_sweep():
            raise
        say(note_crash(folder, error))
    finally:
        remove_run(folder, Path.cwd() / "outputs")


def _check_earlier(config: StudyConfig, record: Any, folder: Path) -> None:
    """Reject a command that would mix two runs in the folder of an earlier run."""
    if config.run and config.resume:
        raise UserError("run and resume cannot be combined: set only one of them")
    if config.run and config.stage in ("all", "train"):
        raise UserError(
            f"stage={config.stage} cannot be combined with run: set stage=attack or stage=report, "
            "or continue the training with resume=FOLDER"
        )
    if config.stage != "report":
        reject_changes(folder, record)


def _resume_command(folder: Path, earlier: str | None) -> str:
    """Return the command that continues a run; a command on an earlier run is repeated as it is."""
    if earlier is not None or not is_used(folder):
        return pasted(["fedser", *sys.argv[1:]])
    config = HydraConfig.get()
    given = [s.path for s in config.runtime.config_sources if s.provider == "command-line"]
    searched = [o for o in config.overrides.hydra if o.startswith("hydra.searchpath=")]
    options = [part for path in given for part in ("--config-dir", path)]
    repeated = overrides_to_repeat(config.overrides.task)
    return pasted(["fedser", *options, *searched, override("resume", folder), *repeated])


def _in_sweep() -> bool:
    return HydraConfig.get().mode is RunMode.MULTIRUN


def _run_job(config: StudyConfig, record: Any, folder: Path) -> None:
    """Run one run of a sweep, or the part of it that an earlier command left undone."""
    found = begin_job(config, record, folder)
    if isinstance(found, StudyConfig):
        run_study(found, record, folder, _sweep_dir())
        return
    console.print(plain(f"{folder}: finished before"), soft_wrap=True)
    if not (folder / "report.html").exists():
        from fedser.reports.run_page import write_report  # slow to import, with Matplotlib

        write_report(folder)
    end_study(config, found, folder)


def _sweep_dir() -> Path | None:
    """Return the folder of the sweep that this run is a part of."""
    return Path(HydraConfig.get().sweep.dir).absolute() if _in_sweep() else None


def _report_earlier_runs(composed: DictConfig, folder: Path) -> None:
    """Write one page over several earlier runs; some may not be finished yet."""
    try:
        if composed.stage != "report":
            raise UserError(
                f"stage={composed.stage} cannot be combined with runs: set stage=report"
            )
        if composed.run or composed.resume:
            raise UserError("runs cannot be combined with run or resume: set only one of them")
        report_runs(folder, find_runs(globs(composed.runs), exclude=folder))
    except UserError as error:
        remove_run(folder, Path.cwd() / "outputs")
        _end_run(say(str(error)), BAD_INPUT, folder)
    except OSError as error:
        _end_run(say(os_problem(error)), SUSPENDED, folder)


def _end_run(line: str, status: int, folder: Path) -> None:
    """End the command; in a sweep only note the reason, so that the other runs continue."""
    if _in_sweep():
        with suppress(OSError):  # the disk may be full; the line is printed already
            note_failure(folder, line)
        return
    sys.exit(status)  # if the error left this function, Hydra would print a second line


def _recompose(folder: Path, stage: str) -> DictConfig:
    """Compose an earlier run's configuration again, with the overrides of this command."""
    given = list(HydraConfig.get().overrides.task)
    # A report only shows results: it needs no key that names files.
    earlier = earlier_overrides(folder, given, complete=stage != "report")
    composed = hydra.compose("config", overrides=[*earlier, *given])
    for key in OmegaConf.missing_keys(composed) if stage == "report" else ():
        OmegaConf.update(composed, key, None)
    return composed


def _remove_new(folder: Path, existing: set[Path]) -> None:
    """Remove all that this command wrote to a folder, so that nothing half-written stays."""
    for path in set(folder.iterdir()) - existing:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
