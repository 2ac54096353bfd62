"""One table, one figure and one page over many runs, such as those of a Hydra multirun."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import ListConfig

from fedser.common.errors import UserError
from fedser.common.files import read_text, read_yaml, write_text
from fedser.common.run_folder import HYDRA, PROBLEM_FILE, RUN_FILE
from fedser.reports import figures
from fedser.reports.sweep.figure import sweep_figure
from fedser.reports.sweep.points import COUNTS, sweep_points
from fedser.results.attacks import attack_series
from fedser.results.files import Results, read_results
from fedser.results.utility import chance_uar

UTILITY = ["mechanism", "uar", "chance_uar", "accuracy"]
GUARANTEE = ["nominal_epsilon", "epsilon", "epsilon_known_participation", "participation"]
STATEMENT = [*UTILITY, *GUARANTEE, "delta", "unit", "vantage"]
PAGE = "sweep.html"
"""In the folder of a sweep, or of a command that reported on runs elsewhere."""
SHOWN_LEAKS = (1, 20)
ENDS = ("low", "high")
UNFINISHED = (
    "no results yet: the run goes on, or was interrupted and goes on with fedser resume=FOLDER"
)


def globs(runs: Any) -> list[str]:
    """Return what the key `runs` names: one glob, or a list of them."""
    return [str(glob) for glob in (runs if isinstance(runs, ListConfig) else [runs])]


def find_runs(patterns: Sequence[str], but: Path) -> list[Path]:
    """Find the folders of runs.

    Parameters
    ----------
    patterns : list of str
        Folders or globs of folders: of runs, or of sweeps with runs below.
    but : Path
        A folder that is left out: that of the command which asks.

    Raises
    ------
    UserError
        If there are no runs where one of them points.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        folders = _folders(pattern)
        below = [run for path in folders for run in ([path] if _is_run(path) else runs_below(path))]
        runs = [run for run in below if run != but]
        if not runs:
            raise UserError(
                f"runs={pattern}: no run is there; name the folder of a sweep or of runs, as in "
                "runs='multirun/DATE/*'"
            )
        found |= dict.fromkeys(runs)
    return list(found)


def sweep_folder(patterns: Sequence[str]) -> Path | None:
    """Return the folder that holds all the runs, if they are named by that one folder."""
    folders = [folder for pattern in patterns for folder in _folders(pattern)]
    alone = len(folders) == 1 and not _is_run(folders[0])
    return folders[0] if alone else None


def _folders(pattern: str) -> list[Path]:
    pattern = os.path.expanduser(pattern)
    matched = [pattern] if os.path.isdir(pattern) else sorted(glob.glob(pattern))
    return [Path(path).absolute() for path in matched if os.path.isdir(path)]


def _is_run(folder: Path) -> bool:
    traces = ("results.json", ".hydra", PROBLEM_FILE)
    return not (folder / PAGE).exists() and any((folder / name).exists() for name in traces)


def runs_below(folder: Path) -> list[Path]:
    """Return the runs in a folder or, where there is none, in the folders that it holds."""
    inside = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    inside.sort(key=lambda path: (len(path.name), path.name))  # 2 before 10
    runs = [path for path in inside if _is_run(path)]
    return runs or [run for path in inside for run in runs_below(path)]


def write_sweep(folder: Path, runs: Sequence[Path]) -> Path:
    """Write `sweep.csv`, a row a run, `sweep.png` and the page `sweep.html` into a folder.

    Parameters
    ----------
    runs : sequence of Path
        Folders of the runs, one or more.

    Returns
    -------
    Path
        The table. A run that failed keeps its row, with
        the reason under `problem` and no figures. Columns such as `correlation_auc_20` name
        the number of leaked updates: 1, 20 and the largest that was attacked; its 95 % interval
        is in `correlation_auc_20_low` and `correlation_auc_20_high`. Attacks that
        recognise speakers again have an `eer` there and no `auc`, which is of something else.
    """
    varied, read = read_runs(runs)
    rows = pd.DataFrame([_row(results) for results in read])
    attacked = [name for name in rows if name not in {*STATEMENT, *COUNTS, "problem"}]
    rows = rows.reindex(columns=[*STATEMENT, *COUNTS, *attacked, "problem"])
    rows = rows.astype(dict.fromkeys(COUNTS, "Int64")).set_axis(varied.index)
    table = pd.concat([varied, rows], axis="columns").reset_index(names="run")
    write_text(folder / "sweep.csv", table.to_csv(index=False))
    points = sweep_points(varied, read)
    if len(points):
        figures.save_png(sweep_figure(points), folder / "sweep.png")
    else:
        (folder / "sweep.png").unlink(missing_ok=True)  # of runs that were there before
    from fedser.reports.sweep.page import render_page  # Bokeh takes a second to import

    page = render_page(folder, runs, [read_config(run) for run in runs], varied, read, points)
    write_text(folder / PAGE, page)
    return folder / "sweep.csv"


def read_runs(runs: Sequence[Path]) -> tuple[pd.DataFrame, list[Results | str]]:
    """Read runs.

    Parameters
    ----------
    runs : sequence of Path
        Their folders.

    Returns
    -------
    DataFrame
        The overrides in which they differ, indexed by the run's folder below what is common.
    list of dict or str
        Results of each, or why it has none.
    """
    common = os.path.commonpath([run.parent for run in runs]) if runs else ""
    overrides = pd.DataFrame([_overrides(run) for run in runs], dtype=object)
    overrides.index = pd.Index([os.path.relpath(run, common) for run in runs])
    varied = overrides.loc[:, overrides.nunique(dropna=False) > 1]
    return varied, [_read(run) for run in runs]


def read_config(run: Path) -> Results:
    """Read the configuration that a run was started with; empty where there is none to be read."""
    for path in (run / RUN_FILE, run / HYDRA / "config.yaml"):
        if isinstance(found := _from_yaml(path), dict):
            return found
    return {}


def _overrides(run: Path) -> dict[str, str]:
    lines = _from_yaml(run / HYDRA / "overrides.yaml")
    pairs = [str(line).partition("=") for line in (lines if isinstance(lines, list) else ())]
    return {key.lstrip("+~"): value for key, _, value in pairs}


def _from_yaml(path: Path) -> Any:
    """Read a small file of a run, which may be somebody else's; None where that cannot be done."""
    try:
        return read_yaml(path)
    except (OSError, ValueError):
        return None


def _read(run: Path) -> Results | str:
    """Results of one run, or why it has none."""
    problem, results = run / PROBLEM_FILE, run / "results.json"
    try:
        return read_results(results)
    except UserError as error:
        if problem.exists():
            return read_text(problem)
        return str(error).replace(f"{run}/", "") if results.exists() else UNFINISHED


def _row(results: Results | str) -> dict[str, Any]:
    if isinstance(results, str):
        return {"problem": results}
    summary = {**results, **results["utility"], **results["privacy"]}
    summary["chance_uar"] = chance_uar(results)
    row = {column: summary[column] for column in [*STATEMENT, *COUNTS]}
    for label, records in attack_series(results["attacks"]).items():
        for record in records:
            leaked = record["leaked_updates"]
            if leaked in SHOWN_LEAKS or record is records[-1]:
                name = label.replace(", ", "_")
                for figure in ("eer",) if record["across"] else ("auc", "uar_calibrated"):
                    row[f"{name}_{figure}_{leaked}"] = record[figure]
                    if bounds := record.get(f"ci95_{figure}"):
                        row |= {
                            f"{name}_{figure}_{leaked}_{e}": b
                            for e, b in zip(ENDS, bounds, strict=True)
                        }
    return row
