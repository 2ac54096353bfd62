"""Find the folders of runs: by glob, or below the folder of a sweep."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import ListConfig

from fedser.common.errors import UserError
from fedser.common.run_folder import HYDRA, PROBLEM_FILE

PAGE = "sweep.html"
"""In the folder of a sweep, and in the folder of a command that reported on other runs."""
RUN_FILES = ("results.json", HYDRA, PROBLEM_FILE)
"""A folder with one of these files is a run, unless it holds PAGE."""


def globs(runs: Any) -> list[str]:
    """Return the key `runs` as a list of globs; its value is one glob or a list of globs."""
    return [str(glob) for glob in (runs if isinstance(runs, ListConfig) else [runs])]


def find_runs(patterns: Sequence[str], exclude: Path) -> list[Path]:
    """Find the folders of runs.

    Parameters
    ----------
    patterns : list of str
        Folders, or globs of folders. Each is the folder of a run, or holds runs at any depth.
    exclude : Path
        A folder to leave out: the folder of the command that asks.

    Raises
    ------
    UserError
        If a pattern leads to no run.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        folders = _folders(pattern)
        below = [run for path in folders for run in ([path] if _is_run(path) else runs_below(path))]
        runs = [run for run in below if run != exclude]
        if not runs:
            raise UserError(
                f"runs={pattern}: there is no run; name the folder of a sweep or of runs, as in "
                "runs='multirun/DATE/*'"
            )
        found |= dict.fromkeys(runs)
    return list(found)


def sweep_folder(patterns: Sequence[str]) -> Path | None:
    """Return the folder of the sweep if the patterns name one folder that is no run, else None."""
    folders = [folder for pattern in patterns for folder in _folders(pattern)]
    alone = len(folders) == 1 and not _is_run(folders[0])
    return folders[0] if alone else None


def _folders(pattern: str) -> list[Path]:
    pattern = os.path.expanduser(pattern)
    matched = [pattern] if os.path.isdir(pattern) else sorted(glob.glob(pattern))
    return [Path(path).absolute() for path in matched if os.path.isdir(path)]


def _is_run(folder: Path) -> bool:
    return not (folder / PAGE).exists() and any((folder / name).exists() for name in RUN_FILES)


def runs_below(folder: Path) -> list[Path]:
    """Return the runs directly in a folder, or, if there are none, the runs in its subfolders."""
    inside = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    inside.sort(key=lambda path: (len(path.name), path.name))  # 2 before 10
    runs = [path for path in inside if _is_run(path)]
    return runs or [run for path in inside for run in runs_below(path)]
