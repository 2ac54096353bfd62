"""The stage that writes the results and the report."""

from collections.abc import Sequence
from pathlib import Path

from fedser.common.console import console, plain
from fedser.loggers.base import RunLog
from fedser.reports.composed_privacy import composition_sentences
from fedser.reports.run_page import write_report
from fedser.reports.sweep.read_runs import finished, read_runs
from fedser.reports.sweep.sweep_report import write_sweep
from fedser.reports.sweep.terminal_table import sweep_table
from fedser.reports.terminal import summary_table
from fedser.results.files import Results, write_results


def finish(folder: Path, results: Results, log: RunLog, measured: bool) -> None:
    """Write and print the results of a run; `measured` tells a logger that they are new."""
    write_results(folder / "results.json", results)
    page = write_report(folder)
    log.results(results, measured)
    console.print(summary_table(results))
    console.print(plain(f"report: {page}"), soft_wrap=True)


def show_sweep(folder: Path, runs: Sequence[Path]) -> None:
    """Write the page over several runs, and print its table."""
    written = write_sweep(folder, runs)
    together = composition_sentences(finished(read_runs(runs)[1]))
    console.print(sweep_table(written, together))
    console.print(plain(f"sweep: {written}"), soft_wrap=True)
    console.print(plain(f"report: {written.with_suffix('.html')}"), soft_wrap=True)
