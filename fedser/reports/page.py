"""The report of a run: `figures/*.png` and one page, `report.html`, that needs nothing else."""

from pathlib import Path

import pandas as pd
import yaml

from fedser.common.files import write_text
from fedser.reports import figures
from fedser.reports.pages import render
from fedser.reports.several_runs import statements
from fedser.reports.sweep.sweep import PAGE, read_runs, runs_below
from fedser.reports.wording import (
    attack_remark,
    decimal,
    leakage_finding,
    privacy_finding,
    utility_finding,
)
from fedser.results.attacks import AttackRecord, attack_series
from fedser.results.files import Results, read_results
from fedser.results.rounds import read_rounds
from fedser.results.utility import fold_chance
from fedser.server.privacy.statement import epsilon_text
from fedser.server.strategy.replies import REASONS

UNITS = {
    "utterance": "one utterance of a client, not the speaker behind it",
    "client": "everything one client holds",
    "speaker": "everything one speaker said, over all of the speaker's clients",
}
RELATIONS = {
    "add_remove": "data sets differ by one {unit} added or removed",
    "zero_out": "the updates of one {unit} are replaced by zeros; who takes part is known",
    "replace_one": "data sets differ by one {unit} replaced by another",
}
SAMPLING = {
    "poisson": "Poisson: each client joins a round independently of the others",
    "fixed": "fixed size: every round has as many clients",
}
LEAVES = {
    "update": "the update",
    "num_examples": "the number of training utterances, in the clear",
    "loss": "the training loss, in the clear",
}
RELEASED = {
    "released": "those of all folds",
    "evaluation": "that of one fold; the others only estimate utility, and are not shown",
}
NONE = pd.Series(dtype=float)
NOISE = {
    "seeded": "the seed: reproducible, and no protection against anybody who knows the seed",
    "system": "entropy of the operating system",
    None: "none",
}


def write_report(run_dir: Path) -> Path:
    """Write the figures and the page of one run.

    Parameters
    ----------
    run_dir : Path
        Folder with `results.json` and `rounds.parquet`.

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
    page = run_dir / "report.html"
    write_text(
        page,
        render(
            "report.html.jinja",
            results=results,
            sweep=_sweep(run_dir, results),
            findings=[utility_finding(results), leakage_finding(series), privacy_finding(results)],
            figures=_draw(run_dir / "figures", rounds, results, series),
            remarks=[attack_remark(attack) for attack in results["attacks"]],
            fold_chance=fold_chance,
            privacy_rows=privacy_rows(results),
            real_epsilons=real_epsilons(results),
            rounds_run=len(rounds),
            empty_rounds=_total(rounds.get("clients", NONE) + rounds.get("rejected", NONE) == 0),
            rejected=_total(rounds.get("rejected", NONE)),
            refusals=refusals(rounds),
            config=yaml.safe_dump(results["config"], allow_unicode=True),
        ),
    )
    return page


def _sweep(run_dir: Path, results: Results) -> tuple[int, list[str]] | None:
    """Return how many runs of a sweep are on the same people, and what they spend together."""
    if not (run_dir.parent / PAGE).exists():
        return None
    read = [r for r in read_runs(runs_below(run_dir.parent))[1] if isinstance(r, dict)]
    own = [r for r in read if r["corpus"]["name"] == results["corpus"]["name"]]
    return (len(own), statements(own)) if len(own) > 1 else None


def refusals(rounds: pd.DataFrame) -> list[tuple[int, str]]:
    """How many updates, or further replies, were rejected for which reason, most first."""
    counts = ((_total(rounds.get(f"rejected_{name}", NONE)), name) for name in REASONS)
    return [(n, f"{name}: {REASONS[name]}") for n, name in sorted(counts, reverse=True) if n]


def privacy_rows(results: Results) -> list[tuple[str, str]]:
    """The statement without which an epsilon means nothing, as label and text."""
    privacy = results["privacy"]
    unit, relation = privacy["unit"], privacy["relation"]
    covered = f"{unit}: {UNITS[unit]}" if unit else "none"
    if unit == "client" and results["clients"] > results["speakers"]:
        held = f"{results['speakers']} speakers hold {results['clients']} clients"
        covered += f"; {held}, so a speaker is protected less than a client"
    neighbours = RELATIONS[relation].format(unit=unit or "record") if relation else "none"
    return [
        ("Mechanism", privacy["mechanism"]),
        ("Unit", covered),
        ("Neighbouring relation", neighbours),
        ("Vantage (against whom)" if unit else "Vantage", privacy["vantage"] or "not stated"),
        ("Accountant", privacy["accountant"] or "none"),
        (
            f"Releases of one {unit or 'client'}, at most, in all folds",
            decimal(privacy["releases_max"], 0),
        ),
        ("Models that count as released", RELEASED[privacy["cross_validation"]]),
        ("Cohorts", SAMPLING[privacy["sampling"]]),
        (
            "Noise multiplier (standard deviation / sensitivity)",
            _plain(privacy["noise_multiplier"]),
        ),
        ("Clipping norm", _plain(privacy["clipping_norm"])),
        ("Noise source", NOISE[privacy["noise"]]),
        (
            "Leaves the device",
            ", ".join(LEAVES.get(sent, sent) for sent in privacy["leaves_device"]),
        ),
    ]


def real_epsilons(results: Results) -> list[tuple[str, str]]:
    """The real epsilon, as heading and text: for the run, other observers, and one fold."""
    privacy = results["privacy"]
    if privacy["epsilon"] is None:
        return [("Real", "no guarantee")]
    shown = [(f"participation {privacy['participation']}", privacy["epsilon"])]
    known = privacy["epsilon_known_participation"], privacy["epsilon_known_replace_one"]
    for relation, epsilon in zip(("zero-out", "replace-one"), known, strict=True):
        if epsilon is not None:
            shown.append((f"participation known, {relation}", epsilon))
    one = privacy["epsilon_one_federation"]
    if one is not None and len(results["utility"]["per_fold"]) > 1:
        shown.append(("one fold alone", one))
    return [(f"Real, {condition}", epsilon_text(epsilon)) for condition, epsilon in shown]


def _plain(number: float | None) -> str:
    return "–" if number is None else f"{number:.4g}"


def _draw(
    folder: Path, rounds: pd.DataFrame, results: Results, series: dict[str, list[AttackRecord]]
) -> dict[str, str]:
    """Save each figure and return it for the page; a figure without numbers is left out."""
    folder.mkdir(exist_ok=True)
    drawn = {
        "utility": figures.utility_figure(rounds, results),
        "roc": figures.roc_figure(series),
        "leakage": figures.leakage_figure(series),
    }
    for name, figure in drawn.items():
        if figure is None:
            # An earlier report of this run may have left one.
            (folder / f"{name}.png").unlink(missing_ok=True)
        else:
            figures.save_png(figure, folder / f"{name}.png")
    return {name: figures.inline_svg(figure) for name, figure in drawn.items() if figure}


def _total(counts: pd.Series) -> int:
    return int(counts.sum())
