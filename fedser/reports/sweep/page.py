"""The page of a sweep: a figure to point at, filters and a table, in one file of its own."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

import pandas as pd
from bokeh.embed import json_item
from bokeh.resources import Resources
from markupsafe import Markup

from fedser.reports.pages import render
from fedser.reports.several_runs import statements
from fedser.reports.sweep.plot import sweep_plots
from fedser.reports.sweep.points import STRONGEST, fold_uars, leaks, looks
from fedser.reports.wording import delta_text, nominal_text
from fedser.results.attacks import AttackRecord
from fedser.results.files import Results
from fedser.server.privacy.statement import epsilon_text

GLYPHS = {"o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼", "P": "⬢", "X": "★"}
"""The figure's markers in print."""
DASH = "–"
TOLD = {
    *("corpus", "privacy", "privacy.epsilon", "privacy.noise_multiplier", "features"),
    *("normalisation", "algorithm", "seed", "experiment", "attack"),
}
"""Overrides that other columns tell of."""


class Cell(NamedTuple):
    """A text of the table and what it is sorted by, None for what comes last."""

    text: str
    key: float | str | None


def render_page(
    folder: Path,
    runs: Sequence[Path],
    configs: Sequence[Results],
    varied: pd.DataFrame,
    read: Sequence[Results | str],
    points: pd.DataFrame,
) -> str:
    """Return the page.

    Parameters
    ----------
    folder : Path
        Where the page will be; links to the runs' reports start there.
    runs, configs : list of Path, list of dict
        Folder of each run, and the configuration that it was started with.
    varied, read : DataFrame, list of dict or str
        As of `fedser.reports.sweep.sweep.read_runs`.
    points : DataFrame
        As of `fedser.reports.sweep.points.sweep_points`.
    """
    facets = _facets(configs, varied, read)
    filters = {name: _choices(values) for name, values in facets.items() if len(set(values)) > 1}
    attacks = _attacks(read)
    told = [r["privacy"]["vantage"] for r in read if isinstance(r, dict)]
    vantages = dict(zip(dict.fromkeys(filter(None, told)), ascii_lowercase, strict=False))
    plots = sweep_plots(points, read) if len(points) else {}
    data = {
        "facets": {name: facets[name] for name in filters},
        "attacks": attacks,
        "figures": [json_item(plot) for plot in plots.values()],
    }
    rows = [
        {
            "name": str(varied.index[number]),
            "link": _link(folder, run),
            "facets": [values[number] for values in facets.values()],
            "problem": results if isinstance(results, str) else None,
            "cells": [] if isinstance(results, str) else _cells(results, vantages),
        }
        for number, (run, results) in enumerate(zip(runs, read, strict=True))
    ]
    return render(
        "sweep.html.jinja",
        rows=rows,
        facets=list(facets),
        filters=filters,
        looks={name: (color, GLYPHS[mark]) for name, color, mark in _looks(points)},
        attacks=[name for name in attacks if name != STRONGEST],
        corpora=list(plots),
        vantages=vantages,
        data=_script(data),
        together=statements([r for r in read if isinstance(r, dict)]),
        bokeh=Markup(Resources("inline", components=["bokeh"], log_level="error").render_js()),
    )


def _looks(points: pd.DataFrame) -> list[tuple[str, str, str]]:
    return list(looks(points)) if len(points) else []


def _script(data: object) -> Markup:
    """Write data so that nothing in it can end the script that holds it."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c"))


def _link(folder: Path, run: Path) -> str | None:
    report = run / "report.html"
    return Path(os.path.relpath(report, folder)).as_posix() if report.exists() else None


def _facets(
    configs: Sequence[Results], varied: pd.DataFrame, read: Sequence[Results | str]
) -> dict[str, list[str]]:
    """Texts, one a run, by which runs can be told apart; corpus and mechanism come first."""
    settings = pd.DataFrame(
        [_settings(*of_run) for of_run in zip(configs, read, strict=True)], dtype=object
    )
    kept = [n for n in settings if n in ("corpus", "mechanism") or settings[n].nunique() > 1]
    others = varied[[key for key in varied if key not in TOLD]].reset_index(drop=True)
    found = pd.concat([settings[kept], others], axis="columns").fillna(DASH)
    return {str(name): [str(value) for value in found[name]] for name in found}


def _settings(config: Results, results: Results | str) -> dict[str, Any]:
    """What a run's results, or else its configuration, say of it; None where nothing does."""
    if isinstance(results, dict):
        config = results["config"]
        corpus, privacy = results["corpus"], results["privacy"]
    else:
        corpus, privacy = (config.get(key) or {} for key in ("corpus", "privacy"))
    features, algorithm = (config.get(key) or {} for key in ("features", "algorithm"))
    told = (features.get(key) for key in ("feature_set", "upstream", "path"))
    return {
        "corpus": corpus.get("name"),
        "mechanism": privacy.get("mechanism"),
        "features": next((name for name in told if name), None),
        "normalisation": config.get("normalisation"),
        "algorithm": algorithm.get("name"),
        "seed": config.get("seed"),
    }


def _choices(values: Sequence[str]) -> list[str]:
    """Distinct values: numbers first and by their size."""

    def order(text: str) -> tuple[float, str]:
        try:
            return float(text), text
        except ValueError:
            return float("inf"), text

    return sorted(set(values), key=order)


def _attacks(read: Sequence[Results | str]) -> dict[str, list[tuple[Cell, Cell]]]:
    """AUC of each run at one and at the most leaked updates, by attack; STRONGEST is first."""
    found = [leaks(results) if isinstance(results, dict) else ({}, {}) for results in read]
    names = dict.fromkeys((STRONGEST, *(name for run in found for at in run for name in at)))
    return {
        name: [(_auc(one.get(name)), _auc(most.get(name))) for one, most in found] for name in names
    }


def _auc(attack: AttackRecord | None) -> Cell:
    if attack is None:
        return Cell(DASH, None)
    low, high = attack["ci95_auc"] or (None, None)
    text = f"{attack['auc']:.3f}" + ("" if low is None else f" ({low:.3f}–{high:.3f})")
    return Cell(text, attack["auc"])


def _cells(results: Results, vantages: Mapping[str, str]) -> list[Cell]:
    """What the table says of a finished run beside its settings and the attacks."""
    privacy, utility, folds = results["privacy"], results["utility"], fold_uars(results)
    uar = DASH if utility["uar"] is None else f"{100 * utility['uar']:.1f}"
    if len(folds) > 1:
        uar += f" ({min(folds):.1f}–{max(folds):.1f})"
    epsilon, known = privacy["epsilon"], privacy["epsilon_known_participation"]
    nominal = privacy["nominal_epsilon"]
    return [
        Cell(uar, utility["uar"]),
        Cell("no guarantee" if epsilon is None else epsilon_text(epsilon), epsilon),
        Cell(epsilon_text(known), known),
        Cell(delta_text(privacy["delta"]), privacy["delta"]),
        Cell(nominal_text(nominal), nominal),
        Cell(privacy["unit"] or DASH, privacy["unit"]),
        Cell(vantages.get(privacy["vantage"], DASH), vantages.get(privacy["vantage"])),
        Cell(f"{results['speakers']}, {results['clients']}", results["speakers"]),
    ]
