"""The console command ``fedser``: what is asked of it, and how it ends."""

import os
import sys
import textwrap
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedser.common.errors import BAD_INPUT, DISK, SUSPENDED, UserError, os_problem
from fedser.common.quoting import visible
from fedser.common.run_folder import alone, remove_run
from fedser.common.signals import Interrupted, interruptible
from fedser.conf.messages import explain, group_options
from fedser.conf.overrides import home_expanded
from fedser.conf.store import register
from fedser.conf.values import refuse_early

COLUMNS = 78


def main() -> None:
    """Run the command line: bad input ends in one line and exit status 2."""
    sys.argv[1:] = home_expanded(sys.argv[1:])
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let Hydra's errors reach this function
    try:
        with interruptible():
            _hydra_main()
    except Interrupted as stop:
        line, status = "interrupted: no run was under way", stop.status
    except BrokenPipeError:  # whoever read what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (HydraException, OmegaConfBaseException) as error:
        line, status = explain(error), BAD_INPUT
    except OSError as error:  # of the folder that Hydra makes for a run
        line, status = os_problem(error), SUSPENDED if error.errno in DISK else BAD_INPUT
    else:
        return
    print(f"fedser: {visible(line)}", file=sys.stderr)
    sys.exit(status)


@hydra.main(config_path="pkg://fedser.conf", config_name="config", version_base="1.3")
def _hydra_main(composed: DictConfig) -> None:
    if HydraConfig.get().mode is RunMode.RUN:  # a job of a sweep says so in its folder
        _refuse_early(composed)
    from fedser.cli.run import run_composed  # slow to import: not for help and completion

    run_composed(composed)


def _refuse_early(composed: DictConfig) -> None:
    """Refuse a value before the wait for imports, and leave no empty folder."""
    folder = Path(HydraConfig.get().runtime.output_dir).absolute()
    try:
        refuse_early(composed)
    except (UserError, OmegaConfBaseException) as error:
        with alone(folder):
            remove_run(folder, Path.cwd() / "outputs")
        line = str(error) if isinstance(error, UserError) else explain(error)
        print(f"fedser: {visible(line)}", file=sys.stderr)
        sys.exit(BAD_INPUT)  # raised further, Hydra would add a line of its own


class Sweep(Callback):
    """What happens around a multirun: imported when there is one, as it is slow."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check what can be before the first job."""
        from fedser.cli.sweep_callback import SweepTable

        self._table = SweepTable()
        self._table.on_multirun_start(config, **kwargs)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Collect what the jobs left."""
        self._table.on_multirun_end(config, **kwargs)


def groups() -> str:
    """Return the groups of the configuration and their options, for ``hydra.help.template``."""
    loader = GlobalHydra.instance().config_loader()
    listed = [
        f"{group}: {', '.join(group_options(group))}"
        for group in loader.get_group_options("", ObjectType.GROUP)
        if group != "hydra"
    ]
    return "\n".join(
        textwrap.fill(line, COLUMNS, initial_indent="  ", subsequent_indent="      ")
        for line in listed
    )


def _run_folder(run: str | None, resumed: str | None, runs: Any, new: str) -> str:
    """Return a run's folder: the earlier one that a command works on, or a new one."""
    if runs is not None:
        from fedser.reports.sweep.find_runs import globs, sweep_folder

        return str(sweep_folder(globs(runs)) or new)
    return run or resumed or new


# Here, and not in `main`: jobs of a sweep in processes of their own import this alone.
register()
OmegaConf.register_new_resolver("groups", groups, replace=True)
OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
