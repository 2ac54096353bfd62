"""The report of a run: `figures/*.png` and one page, `report.html`, that loads nothing else."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import yaml
from matplotlib.figure import Figure

from fedser.common.files import write_text
from fedser.reports import figures
from fedser.reports.composed_privacy import composition_sentences
from fedser.reports.findings import (
    attack_remark,
    leakage_finding,
    privacy_finding,
    utility_finding,
)
from fedser.reports.privacy_section import privacy_rows, real_epsilons
from fedser.reports.render import render
from fedser.reports.run_figures import leakage_figure, roc_figure, utility_figure
from fedser.reports.sweep.find_runs import PAGE, runs_below
from fedser.reports.sweep.read_runs import finished, read_runs
from fedser.results.attacks import attack_series
from fedser.results.files import Results, read_results
from fedser.results.rounds import read_rounds
from fedser.results.utility import fold_chance
from fedser.server.strategy.replies import REASONS

NONE = pd.Series(dtype=float)


def write_report(run_dir: Path, sweep: Sequence[Results] | None = None) -> Path:
    """Write the figures and the page of one run.

    Parameters
    ----------
    run_dir : Path
        Folder with `results.json` and `rounds.parquet`.
    sweep : sequence of dict, optional
        Results of the finished runs of its sweep; by default they are read from their folders.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    UserError
        If one of these files is missing or damaged.
    """
    results = read_results(run_dir / "results.json")
    rounds = read_rounds(run_dir / "rounds.parquet")
    series = attack_series(results["attacks"])
    drawn = {
        "utility": utility_figure(rounds, results),
        "roc": roc_figure(series),
        "leakage": leakage_figure(series),
    }
    _save(run_dir / "figures", drawn)
    text = render(
        "report.html.jinja",
        results=results,
        sweep=_sweep(_finished_beside(run_dir) if sweep is None else sweep, results),
        findings=[utility_finding(results), leakage_finding(series), privacy_finding(results)],
        figures={name: figures.inline_svg(figure) for name, figure in drawn.items() if figure},
        remarks=[attack_remark(attack) for attack in results["attacks"]],
        fold_chance=fold_chance,
        privacy_rows=privacy_rows(results),
        real_epsilons=real_epsilons(results),
        rounds_run=len(rounds),
        empty_rounds=_total(rounds.get("clients", NONE) + rounds.get("rejected", NONE) == 0),
        rejected=_total(rounds.get("rejected", NONE)),
        rejections=_rejections(rounds),
        config=yaml.safe_dump(results["config"], allow_unicode=True),
    )
    write_text(page := run_dir / "report.html", text)
    return page


def _save(folder: Path, drawn: dict[str, Figure | None]) -> None:
    """Save the figures that exist, and remove the others, which an earlier report may have left."""
    folder.mkdir(exist_ok=True)
    for name, figure in drawn.items():
        if figure is None:
            (folder / f"{name}.png").unlink(missing_ok=True)
        else:
            figures.save_png(figure, folder / f"{name}.png")


def _finished_beside(run_dir: Path) -> list[Results]:
    """Return the results of the finished runs of a sweep; empty if the run is in no sweep."""
    if not (run_dir.parent / PAGE).exists():
        return []
    return finished(read_runs(runs_below(run_dir.parent))[1])


def _sweep(runs: Sequence[Results], results: Results) -> tuple[int, list[str]] | None:
    """Return the number of runs of the sweep on this corpus, and what they spend together."""
    own = [run for run in runs if run["corpus"]["name"] == results["corpus"]["name"]]
    return (len(own), composition_sentences(own)) if len(own) > 1 else None


def _rejections(rounds: pd.DataFrame) -> list[tuple[int, str]]:
    """Return the number of rejected replies for each reason, largest number first."""
    counts = ((_total(rounds.get(f"rejected_{name}", NONE)), name) for name in REASONS)
    return [(n, f"{name}: {REASONS[name]}") for n, name in sorted(counts, reverse=True) if n]


def _total(counts: pd.Series) -> int:
    return int(counts.sum())
