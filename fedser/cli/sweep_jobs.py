"""Runs of a sweep: start one, continue one that was interrupted, or note why one failed.

The same command may be given again: finished runs are kept and interrupted runs continue.
"""

import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedser.common.errors import UserError, first_line
from fedser.common.files import write_text
from fedser.common.run_folder import PROBLEM_FILE, RUN_FILE, TRACEBACK_FILE
from fedser.conf.run_record import FREE, changes, note_run, reject_used
from fedser.conf.schema import StudyConfig
from fedser.results.files import Results, read_results


def begin_job(config: StudyConfig, record: Any, folder: Path) -> StudyConfig | Results:
    """Begin a run of a sweep, or continue the run of an earlier command.

    Parameters
    ----------
    record : dict
        The configuration in the form that ``results.json`` shows.
    folder : Path
        Folder of the run.

    Returns
    -------
    StudyConfig or dict
        The configuration to run with, or the results if the run is finished.

    Raises
    ------
    UserError
        If the folder holds a run of another configuration; the message names the differences.
    """
    if not (folder / RUN_FILE).exists():
        reject_used(folder)
        note_run(folder, record)
        return config
    if found := changes(folder, record, FREE):
        raise UserError(
            f"{folder} holds a run of another configuration ({'; '.join(found)}): set "
            "hydra.sweep.dir to another folder, or remove this folder"
        )
    for name in (PROBLEM_FILE, TRACEBACK_FILE):
        (folder / name).unlink(missing_ok=True)
    try:
        return read_results(folder / "results.json")
    except UserError:  # the run was interrupted: the file is missing or incomplete
        return replace(config, resume=str(folder))


def note_failure(folder: Path, line: str) -> None:
    """Write the reason of a failed run to its folder."""
    write_text(folder / PROBLEM_FILE, line)


def note_crash(folder: Path, error: Exception) -> str:
    """Write the traceback of an unexpected error to the run's folder; return one line about it."""
    write_text(folder / TRACEBACK_FILE, "".join(traceback.format_exception(error)))
    message = first_line(error) if str(error).strip() else "no message"
    line = f"{type(error).__name__}: {message} (see {folder / TRACEBACK_FILE})"
    note_failure(folder, line)
    return line
