"""The console command ``fedser``: read the command line, run it and end with an exit status.

``fedser --help`` and completion import this module, so it imports nothing slow at its top.
"""

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
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedser.common.errors import BAD_INPUT, DISK, SUSPENDED, UserError, os_problem, say
from fedser.common.run_folder import alone, remove_run
from fedser.common.signals import Interrupted, interruptible
from fedser.conf.messages import explain, group_options
from fedser.conf.overrides import home_expanded
from fedser.conf.store import register
from fedser.conf.values import reject_early

COLUMNS = 78
"""Width of the list of groups in the help."""


def main() -> None:
    """Run the command line. Bad input prints one line and ends with status 2."""
    sys.argv[1:] = home_expanded(sys.argv[1:])
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra prints its errors by itself
    try:
        with interruptible():
            _hydra_main()
    except Interrupted as stop:
        line, status = "interrupted before a run began", stop.status
    except BrokenPipeError:  # the reader of a pipe, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (HydraException, OmegaConfBaseException) as error:
        line, status = explain(error), BAD_INPUT
    except OSError as error:  # Hydra cannot make the folder of a run
        line, status = os_problem(error), SUSPENDED if error.errno in DISK else BAD_INPUT
    else:
        return
    say(line)
    sys.exit(status)


@hydra.main(config_path="pkg://fedser.conf", config_name="config", version_base="1.3")
def _hydra_main(composed: DictConfig) -> None:
    if HydraConfig.get().mode is RunMode.RUN:  # in a sweep each run checks its own values
        _reject_early(composed)
    from fedser.cli.run import run_composed  # slow to import

    run_composed(composed)


def _reject_early(composed: DictConfig) -> None:
    """Reject bad values before the slow imports, and leave no empty folder behind."""
    folder = Path(HydraConfig.get().runtime.output_dir).absolute()
    try:
        reject_early(composed)
    except (UserError, OmegaConfBaseException) as error:
        with alone(folder):
            remove_run(folder, Path.cwd() / "outputs")
        say(str(error) if isinstance(error, UserError) else explain(error))
        sys.exit(BAD_INPUT)  # if the error left this function, Hydra would print a second line


def groups() -> str:
    """Return the groups of the configuration with their options, for ``hydra.help.template``."""
    loader = GlobalHydra.instance().config_loader()
    lines = [
        f"{group}: {', '.join(group_options(group))}"
        for group in loader.get_group_options("", ObjectType.GROUP)
        if group != "hydra"
    ]
    return "\n".join(
        textwrap.fill(line, COLUMNS, initial_indent="  ", subsequent_indent="      ")
        for line in lines
    )


def _run_folder(run: str | None, resumed: str | None, runs: Any, new: str) -> str:
    """Return the folder of a command: the earlier folder that it works on, or a new one."""
    if runs is not None:
        from fedser.reports.sweep.find_runs import globs, sweep_folder  # slow to import

        return str(sweep_folder(globs(runs)) or new)
    return run or resumed or new


# Not in `main`: the worker processes of a sweep import this module and do not call `main`.
register()
OmegaConf.register_new_resolver("groups", groups, replace=True)
OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
