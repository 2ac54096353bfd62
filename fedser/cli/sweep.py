"""Check a sweep before its first run, and report on its runs after the last."""

from contextlib import suppress
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from fedser.client.corpora.rotation import check_rotation, missing_corpora
from fedser.common.console import console, plain
from fedser.common.errors import UserError, check_choice
from fedser.common.run_folder import PROBLEM_FILE
from fedser.reports.paper.layouts import LAYOUTS
from fedser.reports.paper.table_report import write_table
from fedser.reports.run_page import write_report
from fedser.reports.sweep.find_runs import runs_below
from fedser.stages.report import report_runs


def check_sweep(config: DictConfig) -> None:
    """Reject an unknown table, a wrong runtime or missing corpora before anything is trained.

    Raises
    ------
    UserError
        Naming the key.
    """
    if config.table is not None:
        check_choice("table", config.table, LAYOUTS)
    if "joblib" in OmegaConf.select(config, "hydra.launcher._target_", default=""):
        _check_runtime(config.runtime.name)
    if "corpora" in config and (config.corpora or OmegaConf.is_interpolation(config, "corpora")):
        _check_corpora(config)


def _check_runtime(name: str) -> None:
    """Reject runtimes that use all cores if several runs work side by side."""
    if name != "local":
        raise UserError(
            f"hydra/launcher=joblib starts several runs side by side, but with runtime={name} each "
            "run uses all cores: set runtime=local, or leave out hydra/launcher"
        )


def _check_corpora(config: DictConfig) -> None:
    """Print which corpora are missing, and reject corpora that cannot be private in turn."""
    corpora, data_root = list(config.corpora), config.data_root
    if OmegaConf.is_interpolation(config, "corpora"):
        for line in missing_corpora(data_root, corpora):
            console.print(plain(line), soft_wrap=True)
    attacked = config.stage == "all" and OmegaConf.is_interpolation(config, "shadow")
    check_rotation(corpora, data_root, attacked)


def report_sweep(folder: Path, table: str | None) -> None:
    """Write and print the results of all runs of a sweep, and its table if one is configured."""
    if runs := runs_below(folder):
        together = report_runs(folder, runs)
        for run in runs:  # each run's page also shows its sweep, which is complete only now
            with suppress(UserError):
                write_report(run, together)
    if table and (shown := write_table(folder, table, console.width)):
        console.print(shown)
        console.print(plain(f"table: {folder / 'table.md'}"), soft_wrap=True)
        console.print(plain(f"page: {folder / 'table.html'}"), soft_wrap=True)


def failed_runs(folder: Path) -> list[str]:
    """Return the names of the runs of a sweep that failed."""
    return sorted(path.parent.name for path in folder.glob(f"*/{PROBLEM_FILE}"))
