"""The stage that writes and prints the results of a run, or of several runs."""

from collections.abc import Sequence
from pathlib import Path

from fedser.common.console import console, plain
from fedser.loggers.base import RunLog
from fedser.reports.composed_privacy import composition_sentences
from fedser.reports.sweep.read_runs import finished, read_runs
from fedser.reports.sweep.terminal_table import sweep_table
from fedser.reports.terminal import summary_table
from fedser.results.files import Results, write_results


def report_run(folder: Path, results: Results, log: RunLog, measured: bool) -> None:
    """Write the results and the page of a run, log the results and print a summary.

    Parameters
    ----------
    measured : bool
        Whether this command measured the results; False if it read them from the folder.
    """
    from fedser.reports.run_page import write_report  # slow to import, with Matplotlib

    write_results(folder / "results.json", results)
    page = write_report(folder)
    log.results(results, measured)
    _print_run(results, page)


def report_runs(folder: Path, runs: Sequence[Path]) -> list[Results]:
    """Write the table, the figure and the page over several runs, and print the table.

    Parameters
    ----------
    folder : Path
        Where the files are written.
    runs : sequence of Path
        Folders of the runs.

    Returns
    -------
    list of dict
        Results of the finished runs.
    """
    from fedser.reports.sweep.sweep_report import write_sweep  # slow to import, with Matplotlib

    table = write_sweep(folder, runs)
    results = finished(read_runs(runs)[1])
    _print_runs(table, composition_sentences(results))
    return results


def _print_run(results: Results, page: Path) -> None:
    console.print(summary_table(results))
    console.print(plain(f"report: {page}"), soft_wrap=True)


def _print_runs(table: Path, together: Sequence[str]) -> None:
    console.print(sweep_table(table, together))
    console.print(plain(f"sweep: {table}"), soft_wrap=True)
    console.print(plain(f"report: {table.with_suffix('.html')}"), soft_wrap=True)
