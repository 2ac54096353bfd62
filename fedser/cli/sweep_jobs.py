"""Jobs of a sweep whose command is given again: finished ones stay, interrupted ones go on."""

import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedser.common.errors import UserError, first_line
from fedser.common.files import write_text
from fedser.common.run_folder import PROBLEM_FILE, RUN_FILE, TRACEBACK_FILE
from fedser.conf.run_record import FREE, changes, note_run, refuse_used
from fedser.conf.schema import StudyConfig
from fedser.results.files import Results, read_results


def take_up(config: StudyConfig, record: Any, folder: Path) -> StudyConfig | Results:
    """Begin a job of a sweep, or go on with what an earlier command left of it.

    Parameters
    ----------
    record : dict
        The configuration as ``results.json`` shows it.
    folder : Path
        Of the job.

    Returns
    -------
    StudyConfig or dict
        How to run the job, or its results where it was finished.

    Raises
    ------
    UserError
        Saying what differs, if the folder holds a job of another configuration.
    """
    if not (folder / RUN_FILE).exists():
        refuse_used(folder)
        note_run(folder, record)
        return config
    if found := changes(folder, record, FREE):
        raise UserError(
            f"{folder} holds a run of another configuration ({'; '.join(found)}): set "
            "hydra.sweep.dir to another folder, or remove this one"
        )
    for name in (PROBLEM_FILE, TRACEBACK_FILE):
        (folder / name).unlink(missing_ok=True)
    try:
        return read_results(folder / "results.json")
    except UserError:  # there are none, or half of them
        return replace(config, resume=str(folder))


def note_failure(folder: Path, line: str) -> None:
    """Leave in a job's folder why it failed."""
    write_text(folder / PROBLEM_FILE, line)


def note_crash(folder: Path, error: Exception) -> str:
    """Leave in a job's folder what nobody foresaw, and return it in one line."""
    write_text(folder / TRACEBACK_FILE, "".join(traceback.format_exception(error)))
    said = first_line(error) if str(error).strip() else "no message"
    line = f"{type(error).__name__}: {said} (see {folder / TRACEBACK_FILE})"
    note_failure(folder, line)
    return line
