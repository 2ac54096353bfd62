"""Read the runs of a sweep: the overrides that differ, results, configuration, or the problem."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fedser.common.errors import UserError
from fedser.common.files import read_text, read_yaml
from fedser.common.run_folder import HYDRA, PROBLEM_FILE, RUN_FILE
from fedser.results.files import Results, read_results

UNFINISHED = (
    "no results yet: the run goes on, or it was interrupted and can go on with fedser resume=FOLDER"
)


def read_runs(runs: Sequence[Path]) -> tuple[pd.DataFrame, list[Results | str]]:
    """Read runs.

    Parameters
    ----------
    runs : sequence of Path
        Folder of each run.

    Returns
    -------
    DataFrame
        The overrides in which the runs differ, one row per run. The index is the run's folder,
        relative to the folder that all runs have in common.
    list of dict or str
        The results of each run, or the reason why there are none.
    """
    common = os.path.commonpath([run.parent for run in runs]) if runs else ""
    overrides = pd.DataFrame([_overrides(run) for run in runs], dtype=object)
    overrides.index = pd.Index([os.path.relpath(run, common) for run in runs])
    varied = overrides.loc[:, overrides.nunique(dropna=False) > 1]
    return varied, [_results_or_problem(run) for run in runs]


def finished(read: Sequence[Results | str]) -> list[Results]:
    """Return the results of the runs that have results."""
    return [results for results in read if not isinstance(results, str)]


def run_label(varied: "pd.Series[str]") -> str:
    """Name a run by the overrides that differ from other runs, as in `udp_50, seed=1`."""
    pairs = [f"{key}={value}" for key, value in varied.dropna().items()]
    return ", ".join(pair.removeprefix("privacy=") for pair in pairs)


def read_config(run: Path) -> dict[str, Any]:
    """Read the configuration that a run was started with; empty if it cannot be read."""
    for path in (run / RUN_FILE, run / HYDRA / "config.yaml"):
        if isinstance(config := _from_yaml(path), dict):
            return config
    return {}


def features_name(config: dict[str, Any]) -> str | None:
    """Return the feature set, the s3prl upstream or the model folder of a configuration."""
    features = config.get("features") or {}
    names = (features.get(key) for key in ("feature_set", "upstream", "path"))
    return next((name for name in names if name), None)


def _overrides(run: Path) -> dict[str, str]:
    lines = _from_yaml(run / HYDRA / "overrides.yaml")
    pairs = [str(line).partition("=") for line in (lines if isinstance(lines, list) else ())]
    return {key.lstrip("+~"): value for key, _, value in pairs}


def _from_yaml(path: Path) -> Any:
    """Read a small file of a run, or return None; the run may come from somebody else."""
    try:
        return read_yaml(path)
    except (OSError, ValueError):
        return None


def _results_or_problem(run: Path) -> Results | str:
    problem, results = run / PROBLEM_FILE, run / "results.json"
    try:
        return read_results(results)
    except UserError as error:
        if problem.exists():
            return read_text(problem)
        return str(error).replace(f"{run}/", "") if results.exists() else UNFINISHED
