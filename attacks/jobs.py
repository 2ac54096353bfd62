"""Jobs of a sweep whose command is given again: finished ones stay, interrupted ones go on."""

import json
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from attacks.results import Results, read_results, write_atomically
from client.errors import UserError, first_line
from conf.schema import StudyConfig

JOB_FILE = "job.json"
"""In a job's folder: the configuration that it was begun with."""
PROBLEM_FILE = "problem.txt"
"""In the folder of a job that failed: why."""
TRACEBACK_FILE = "traceback.txt"
"""Beside it, where that was no user's error: where."""
FREE = {
    *("runtime", "cache", "checkpoint_every", "table", "corpora"),
    *("keep_transcript", "keep_shadows", "run", "runs", "resume", "logger"),
}
"""Keys that change no result, at the top of the configuration."""


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
    begun = folder / JOB_FILE
    wanted = json.loads(json.dumps(record))
    if not begun.exists():
        write_atomically(begun, json.dumps(wanted, indent=2))
        return config
    if found := sorted(_changes(json.loads(begun.read_text("utf-8")), wanted)):
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


def _changes(before: Results, now: Results) -> Iterator[str]:
    """Say in which keys that matter two configurations differ."""
    old, new = (dict(_flat({k: c[k] for k in c.keys() - FREE})) for c in (before, now))
    for key in old.keys() | new.keys():
        if old.get(key) != new.get(key):
            yield f"{key} was {old.get(key)} and is {new.get(key)}"


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def note_failure(folder: Path, line: str) -> None:
    """Leave in a job's folder why it failed."""
    (folder / PROBLEM_FILE).write_text(line, "utf-8")


def note_crash(folder: Path, error: Exception) -> str:
    """Leave in a job's folder what nobody foresaw, and return it in one line."""
    write_atomically(folder / TRACEBACK_FILE, "".join(traceback.format_exception(error)))
    said = first_line(error) if str(error).strip() else "no message"
    line = f"{type(error).__name__}: {said} (see {folder / TRACEBACK_FILE})"
    note_failure(folder, line)
    return line
