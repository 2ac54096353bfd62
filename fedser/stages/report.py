"""The stage that writes and prints the results of a run, or of several runs."""

from collections.abc import Sequence
from pathlib import Path

from fedser.common.console import console, plain
from fedser.loggers.base import RunLog
from fedser.reports.page import write_report
from fedser.reports.several_runs import statements
from fedser.reports.sweep.sweep import read_runs, write_sweep
from fedser.reports.terminal import summary_table, sweep_table
from fedser.results.results import Results, write_results


def report_run(folder: Path, results: Results, log: RunLog, measured: bool) -> None:
    """Write the results and the page of a run, log the results and print a summary.

    Parameters
    ----------
    measured : bool
        Whether this command measured the results; False if it read them from the folder.
    """
    write_results(folder / "results.json", results)
    page = write_report(folder)
    log.results(results, measured)
    _print_run(results, page)


def report_runs(folder: Path, runs: Sequence[Path]) -> None:
    """Write the table, the figure and the page over several runs, and print the table.

    Parameters
    ----------
    folder : Path
        Where the files are written.
    runs : sequence of Path
        Folders of the runs.
    """
    table = write_sweep(folder, runs)
    _print_runs(table, [found for found in read_runs(runs)[1] if isinstance(found, dict)])


def _print_run(results: Results, page: Path) -> None:
    console.print(summary_table(results))
    console.print(plain(f"report: {page}"), soft_wrap=True)


def _print_runs(table: Path, finished: Sequence[Results]) -> None:
    console.print(sweep_table(table, statements(finished)))
    console.print(plain(f"sweep: {table}"), soft_wrap=True)
    console.print(plain(f"report: {table.with_suffix('.html')}"), soft_wrap=True)
