"""The page `sweep.html`: interactive figures, filters and a table, in one file."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

import pandas as pd
from bokeh.embed import json_item
from bokeh.resources import Resources
from markupsafe import Markup

from fedser.reports.composed_privacy import composition_sentences
from fedser.reports.numbers import (
    DASH,
    auc_bounds,
    auc_with_interval,
    delta_text,
    fold_percent,
    nominal_text,
)
from fedser.reports.render import render
from fedser.reports.sweep.interactive_figure import sweep_plots
from fedser.reports.sweep.points import STRONGEST, mechanism_styles, scored_attacks
from fedser.reports.sweep.read_runs import features_name, finished
from fedser.reports.sweep.winners import winner_sentences
from fedser.results.attacks import AttackRecord
from fedser.results.files import Results
from fedser.results.utility import fold_values
from fedser.server.privacy.statement import epsilon_text

GLYPHS = {"o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼", "P": "⬢", "X": "★"}
"""Character for each marker of the figures."""
SHOWN_ELSEWHERE = {
    *("corpus", "privacy", "privacy.epsilon", "privacy.noise_multiplier", "features"),
    *("normalisation", "algorithm", "seed", "attack"),
}
"""Overrides that need no column, because other columns show their value."""


@dataclass(frozen=True)
class SweepRuns:
    """The runs of a sweep, in one order.

    Attributes
    ----------
    folders : list of Path
        Folder of each run.
    configs : list of dict
        Configuration that each run was started with.
    varied, read : DataFrame, list of dict or str
        As returned by `fedser.reports.sweep.read_runs.read_runs`.
    """

    folders: Sequence[Path]
    configs: Sequence[dict[str, Any]]
    varied: pd.DataFrame
    read: Sequence[Results | str]


class Cell(NamedTuple):
    """Text of a table cell and its sort key; None sorts last."""

    text: str
    key: float | str | None


def render_page(folder: Path, runs: SweepRuns, points: pd.DataFrame) -> str:
    """Return the page.

    Parameters
    ----------
    folder : Path
        Folder of the page. Links to the runs' reports are relative to it.
    runs : SweepRuns
        The runs to show.
    points : DataFrame
        As returned by `fedser.reports.sweep.points.sweep_points`.
    """
    facets = _facets(runs)
    filters = {name: _choices(values) for name, values in facets.items() if len(set(values)) > 1}
    attacks = _attacks(runs.read)
    stated = [results["privacy"]["vantage"] for results in finished(runs.read)]
    vantages = dict(zip(dict.fromkeys(filter(None, stated)), ascii_lowercase, strict=False))
    plots = sweep_plots(points, runs.read) if len(points) else {}
    styles = list(mechanism_styles(points)) if len(points) else []
    data = {
        "facets": {name: facets[name] for name in filters},
        "attacks": attacks,
        "figures": [json_item(plot) for plot in plots.values()],
    }
    return render(
        "sweep.html.jinja",
        rows=_rows(folder, runs, facets, vantages),
        facets=list(facets),
        filters=filters,
        styles={name: (color, GLYPHS[mark]) for name, color, mark in styles},
        attacks=[name for name in attacks if name != STRONGEST],
        corpora=list(plots),
        vantages=vantages,
        data=_script(data),
        winners=winner_sentences(points),
        together=composition_sentences(finished(runs.read)),
        bokeh=Markup(Resources("inline", components=["bokeh"], log_level="error").render_js()),
    )


def _rows(
    folder: Path, runs: SweepRuns, facets: dict[str, list[str]], vantages: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return one table row per run: its name, link and settings, then its figures or problem."""
    return [
        {
            "name": str(runs.varied.index[number]),
            "link": _link(folder, run),
            "facets": [values[number] for values in facets.values()],
            "problem": results if isinstance(results, str) else None,
            "cells": [] if isinstance(results, str) else _cells(results, vantages),
        }
        for number, (run, results) in enumerate(zip(runs.folders, runs.read, strict=True))
    ]


def _script(data: object) -> Markup:
    """Return data as JSON that cannot end the script element around it."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c"))


def _link(folder: Path, run: Path) -> str | None:
    report = run / "report.html"
    return Path(os.path.relpath(report, folder)).as_posix() if report.exists() else None


def _facets(runs: SweepRuns) -> dict[str, list[str]]:
    """Return the settings in which runs differ, one text per run; corpus and mechanism first."""
    settings = pd.DataFrame(
        [_settings(*of_run) for of_run in zip(runs.configs, runs.read, strict=True)], dtype=object
    )
    kept = [n for n in settings if n in ("corpus", "mechanism") or settings[n].nunique() > 1]
    other = [key for key in runs.varied if key not in SHOWN_ELSEWHERE]
    others = runs.varied[other].reset_index(drop=True)
    facets = pd.concat([settings[kept], others], axis="columns").fillna(DASH)
    return {str(name): [str(value) for value in facets[name]] for name in facets}


def _settings(config: dict[str, Any], results: Results | str) -> dict[str, Any]:
    """Return the settings of a run from its results, or from its configuration if it has none."""
    if isinstance(results, dict):
        config = results["config"]
        corpus, privacy = results["corpus"], results["privacy"]
    else:
        corpus, privacy = (config.get(key) or {} for key in ("corpus", "privacy"))
    return {
        "corpus": corpus.get("name"),
        "mechanism": privacy.get("mechanism"),
        "features": features_name(config),
        "normalisation": config.get("normalisation"),
        "algorithm": (config.get("algorithm") or {}).get("name"),
        "seed": config.get("seed"),
    }


def _choices(values: Sequence[str]) -> list[str]:
    """Return the distinct values: numbers first, by size."""

    def order(text: str) -> tuple[float, str]:
        try:
            return float(text), text
        except ValueError:
            return float("inf"), text

    return sorted(set(values), key=order)


def _attacks(read: Sequence[Results | str]) -> dict[str, list[tuple[Cell, Cell]]]:
    """Return the AUC of each run at one and at the most leaked updates, by attack."""
    scored = [scored_attacks(run) if isinstance(run, dict) else ({}, {}) for run in read]
    names = dict.fromkeys((STRONGEST, *(name for run in scored for at in run for name in at)))
    return {
        name: [(_auc(one.get(name)), _auc(most.get(name))) for one, most in scored]
        for name in names
    }


def _auc(attack: AttackRecord | None) -> Cell:
    if attack is None:
        return Cell(DASH, None)
    return Cell(auc_with_interval(attack["auc"], *auc_bounds(attack)), attack["auc"])


def _cells(results: Results, vantages: Mapping[str, str]) -> list[Cell]:
    """Return the cells of a run with results, except for its settings and attacks."""
    privacy, uar = results["privacy"], results["utility"]["uar"]
    epsilon, known = privacy["epsilon"], privacy["epsilon_known_participation"]
    nominal = privacy["nominal_epsilon"]
    return [
        Cell(fold_percent(uar, fold_values(results)), uar),
        Cell("no guarantee" if epsilon is None else epsilon_text(epsilon), epsilon),
        Cell(epsilon_text(known), known),
        Cell(delta_text(privacy["delta"]), privacy["delta"]),
        Cell(nominal_text(nominal), nominal),
        Cell(privacy["unit"] or DASH, privacy["unit"]),
        Cell(vantages.get(privacy["vantage"], DASH), vantages.get(privacy["vantage"])),
        Cell(f"{results['speakers']}, {results['clients']}", results["speakers"]),
    ]
