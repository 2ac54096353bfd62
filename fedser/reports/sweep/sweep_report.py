"""The report of a sweep: one table, one figure and one page over many runs."""

from collections.abc import Sequence
from pathlib import Path

from fedser.common.files import write_text
from fedser.reports import figures
from fedser.reports.sweep.csv_table import csv_table
from fedser.reports.sweep.find_runs import PAGE
from fedser.reports.sweep.points import sweep_points
from fedser.reports.sweep.read_runs import read_config, read_runs
from fedser.reports.sweep.static_figure import sweep_figure


def write_sweep(folder: Path, runs: Sequence[Path]) -> Path:
    """Write `sweep.csv`, `sweep.png` and the page `sweep.html` into a folder.

    Parameters
    ----------
    runs : sequence of Path
        Folder of each run, at least one.

    Returns
    -------
    Path
        `sweep.csv`. `fedser.reports.sweep.csv_table.csv_table` describes it.
    """
    varied, read = read_runs(runs)
    write_text(folder / "sweep.csv", csv_table(varied, read).to_csv(index=False))
    points = sweep_points(varied, read)
    if len(points):
        figures.save_png(sweep_figure(points), folder / "sweep.png")
    else:
        (folder / "sweep.png").unlink(missing_ok=True)  # an earlier report may have left one
    from fedser.reports.sweep.sweep_page import SweepRuns, render_page  # Bokeh imports slowly

    configs = [read_config(run) for run in runs]
    page = render_page(folder, SweepRuns(runs, configs, varied, read), points)
    write_text(folder / PAGE, page)
    return folder / "sweep.csv"
