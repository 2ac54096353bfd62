"""Before the first job of a sweep: checks; after the last: the table, the page and the figure."""

import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedser.client.corpora.rotation import absent, check_rotation
from fedser.common.console import console, plain, say
from fedser.common.errors import (
    BAD_INPUT,
    SUSPENDED,
    UserError,
    check_choice,
    os_problem,
)
from fedser.common.run_folder import PROBLEM_FILE, TRACEBACK_FILE, alone
from fedser.conf.messages import explain
from fedser.reports.paper.layouts import LAYOUTS
from fedser.reports.paper.table_report import write_table
from fedser.reports.run_page import write_report
from fedser.reports.sweep.find_runs import runs_below
from fedser.stages.report import show_sweep

CRASHED = 1


class SweepTable(Callback):
    """Keeps others out of a multirun's folder, and leaves a table and a figure over its runs."""

    def __init__(self) -> None:
        self._alone = ExitStack()

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        """Hand nothing on to jobs in processes of their own, which have locks of their own."""
        return type(self), ()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse, before anything is trained, a table or corpora that there are none of."""
        try:
            if config.table is not None:
                check_choice("table", config.table, LAYOUTS)
            if "joblib" in OmegaConf.select(config, "hydra.launcher._target_", default=""):
                _check_runtime(config.runtime.name)
            if "corpora" in config and (
                config.corpora or OmegaConf.is_interpolation(config, "corpora")
            ):
                _check_corpora(config)
            self._alone.enter_context(alone(Path(config.hydra.sweep.dir).absolute()))
        except UserError as error:
            say(str(error))
            sys.exit(BAD_INPUT)
        except OmegaConfBaseException as error:
            say(explain(error))
            sys.exit(BAD_INPUT)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Collect the runs' results below the sweep folder."""
        try:
            with self._alone:
                self._show(config, Path(config.hydra.sweep.dir).absolute())
        except OSError as error:  # Hydra would print a warning alone
            say(os_problem(error))
            sys.exit(SUSPENDED)

    def _show(self, config: DictConfig, folder: Path) -> None:
        if runs := runs_below(folder):
            show_sweep(folder, runs)
            for run in runs:  # their pages tell of the sweep from now on
                with suppress(UserError):
                    write_report(run)
        if config.table and (shown := write_table(folder, config.table, console.width)):
            console.print(shown)
            console.print(plain(f"table: {folder / 'table.md'}"), soft_wrap=True)
            console.print(plain(f"page: {folder / 'table.html'}"), soft_wrap=True)
        if failed := sorted(path.parent.name for path in folder.glob(f"*/{PROBLEM_FILE}")):
            print(f"fedser: {len(failed)} run(s) failed: {', '.join(failed)}", file=sys.stderr)
            sys.exit(CRASHED if any(folder.glob(f"*/{TRACEBACK_FILE}")) else BAD_INPUT)


def _check_runtime(name: str) -> None:
    """Refuse runs side by side that would each take the whole machine."""
    if name != "local":
        raise UserError(
            f"hydra/launcher=joblib runs jobs side by side, and runtime={name} takes all cores for "
            "each: set runtime=local, or leave the launcher out"
        )


def _check_corpora(config: DictConfig) -> None:
    """Name corpora that are missing, and refuse those that cannot take turns."""
    corpora, data_root = list(config.corpora), config.data_root
    if OmegaConf.is_interpolation(config, "corpora"):
        for line in absent(data_root, corpora):
            console.print(plain(line), soft_wrap=True)
    attacked = config.stage == "all" and OmegaConf.is_interpolation(config, "shadow")
    check_rotation(corpora, data_root, attacked)
