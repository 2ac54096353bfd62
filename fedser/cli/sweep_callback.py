"""Hydra's callback around a sweep: one check before the first run, one report after the last.

Hydra imports this module for every command, so it imports nothing slow at its top.
"""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fedser.common.errors import BAD_INPUT, SUSPENDED, UserError, os_problem, say
from fedser.common.run_folder import TRACEBACK_FILE, alone
from fedser.conf.messages import explain

CRASHED = 1
"""Exit status of a sweep in which a run failed by a programming error."""


class SweepCallback(Callback):
    """Check a sweep, lock its folder while its runs work, and report on all runs."""

    def __init__(self) -> None:
        self._lock = ExitStack()

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        """Pickle without the lock: runs in other processes lock their own folders."""
        return type(self), ()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """End the command before the first run if the sweep cannot work."""
        from fedser.cli.sweep import check_sweep  # slow to import

        try:
            check_sweep(config)
            self._lock.enter_context(alone(Path(config.hydra.sweep.dir).absolute()))
        except UserError as error:
            say(str(error))
            sys.exit(BAD_INPUT)
        except OmegaConfBaseException as error:
            say(explain(error))
            sys.exit(BAD_INPUT)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the page and the table over all runs, and name the runs that failed."""
        from fedser.cli.sweep import failed_runs, report_sweep  # slow to import

        folder = Path(config.hydra.sweep.dir).absolute()
        try:
            with self._lock:
                report_sweep(folder, config.table)
                failed = failed_runs(folder)
        except OSError as error:  # Hydra would print only a warning
            say(os_problem(error))
            sys.exit(SUSPENDED)
        if failed:
            say(f"{len(failed)} run(s) failed: {', '.join(failed)}")
            crashed = any((folder / name / TRACEBACK_FILE).exists() for name in failed)
            sys.exit(CRASHED if crashed else BAD_INPUT)
