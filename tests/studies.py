"""Made-up results and rounds of a study, in the form that runs write."""

import io
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedser.cli.main import main
from fedser.reports import figures
from fedser.results.files import write_results

SPEAKERS = [f"s{number:02d}" for number in range(1, 11)]


def make_attack(**changes: Any) -> dict[str, Any]:
    """One attack record, with the given changes."""
    attack = {
        "name": "correlation",
        "attribute": "gender",
        "classes": ["female", "male"],
        "across": None,
        "layer": "first",
        "shadow_corpora": ["nemo", "emodb"],
        "aware": False,
        "vantage": "attributed",
        "selection": "random",
        "combination": "statistics",
        "leaked_updates": 1,
        "auc": 0.903,
        "uar_calibrated": 0.841,
        "uar_fixed": 0.502,
        "tpr_at_fpr_01": 0.713,
        "tpr_at_fpr_10": 0.792,
        "advantage": 0.688,
        "ece": 0.124,
        "p_value": 0.0079,
        "ci95_auc": [0.851, 0.948],
        "eer": None,
        "ci95_eer": None,
        "victims": 50,
        "speakers": 10,
        "roc": {"fpr": [0.0, 0.05, 0.3, 1.0], "tpr": [0.0, 0.6, 0.9, 1.0]},
    }
    return attack | changes


def make_verification(**changes: Any) -> dict[str, Any]:
    """One record of an attack that recognises speakers, with the given changes."""
    figures = ("uar_calibrated", "uar_fixed", "tpr_at_fpr_01", "tpr_at_fpr_10", "advantage")
    absent = dict.fromkeys((*figures, "ece", "p_value", "roc"))
    found = {"eer": 0.213, "ci95_eer": [0.154, 0.262], "across": "rounds"}
    return make_attack(**{"attribute": "speaker", "classes": [], **absent, **found, **changes})


def make_rounds(folds: int = 5, last: int = 40) -> pd.DataFrame:
    """Rounds of the private folds and one shadow federation; round 3 had an empty cohort."""
    fold, number = (axis.ravel() for axis in np.mgrid[0:folds, 1 : last + 1])
    uar = 0.25 + 0.35 * (1 - np.exp(-number / 12)) + 0.01 * fold
    private = pd.DataFrame(
        {
            "federation": [f"private-fold{index}" for index in fold],
            "role": "private",
            "fold": fold,
            "round": number,
            "train_loss": np.where(number == 3, np.nan, 1.4 - uar),
            "validation_uar": uar + 0.03,
            "test_uar": np.where(number % 5 == 0, uar, np.nan),
            "clients": np.where(number == 3, 0, 5),
            "rejected": (number == 7).astype(int),
            "seconds": 0.1,
        }
    )
    shadow = private[fold == 0].assign(
        federation="shadow-0", role="shadow", validation_uar=np.nan, test_uar=np.nan
    )
    rounds: pd.DataFrame = pd.concat([private, shadow], ignore_index=True)
    return rounds


def points(line: Line2D) -> tuple[list[float], list[float]]:
    """The x and y values that a line of a figure shows."""
    x, y = line.get_data(orig=False)
    return np.asarray(x, float).tolist(), np.asarray(y, float).tolist()


def make_results() -> dict[str, Any]:
    """Results of a complete study under the 2022 mechanism."""
    folds = [
        {
            "fold": fold,
            "uar": 0.561 + 0.011 * fold,
            "accuracy": 0.6,
            "best_round": 30 + fold,
            "validation_uar": 0.62,
            "test_speakers": SPEAKERS[2 * fold : 2 * fold + 2],
        }
        for fold in range(5)
    ]
    centroid = {"name": "centroid", "uar_fixed": 0.6, "roc": None}
    return {
        "schema_version": 1,
        "config": {"privacy": {"name": "udp", "epsilon": 25}, "corpus": {"name": "ravdess"}},
        "versions": {"fedser": "0.1.0", "flwr": "1.41.0", "python": "3.11.9"},
        "seed": 7,
        "corpus": {
            "name": "ravdess",
            "utterances": 1234,
            "skipped": ["03-01-broken.wav", "empty.wav"],
            "left_out": {"calm": 192, "tied vote": 8},
            "emotions": {"anger": 300, "happiness": 310, "neutral": 312, "sadness": 312},
        },
        "clients": 50,
        "speakers": 10,
        "utility": {"uar": 0.583, "accuracy": 0.607, "best_round": 32, "per_fold": folds},
        "privacy": {
            "mechanism": "udp",
            "unit": "client",
            "units": 50,
            "relation": "replace_one",
            "vantage": "the server, which sees every update with its sender",
            "delta": 1e-5,
            "epsilon": 105306.4,
            "epsilon_one_federation": 60155.2,
            "epsilon_known_participation": None,
            "epsilon_known_replace_one": None,
            "participation": "known",
            "nominal_epsilon": 25.0,
            "nominal_delta": 0.5,
            "accountant": "exact Gaussian composition",
            "sampling": "fixed",
            "noise_multiplier": None,
            "leaves_device": ["update", "num_examples", "loss"],
            "clipping_norm": 0.25,
            "noise": "system",
            "cross_validation": "released",
            "composition": {
                "noise_multiplier": 1.0,
                "releases": [{"count": 208845.0, "rate": 1.0, "clients": 1}],
            },
            "releases_max": 20,
            "warnings": ["Clipping gradients does not bound an Adam update."],
        },
        "attacks": [
            make_attack(),
            make_attack(leaked_updates=5, auc=0.951, ci95_auc=[0.91, 0.98]),
            make_attack(leaked_updates="all", auc=0.962, ci95_auc=[0.925, 0.991]),
            make_attack(**centroid, auc=0.587, ci95_auc=[0.43, 0.74]),
            make_attack(**centroid, leaked_updates="all", auc=0.624, ci95_auc=None),
        ],
        "audit": None,
        "timing": {
            "rounds_per_second": 3.456,
            "train_seconds": 57.8,
            "shadow_seconds": 201.2,
            "attack_seconds": 12.3,
            "total_seconds": 280.9,
        },
    }


def write_run(folder: Path, results: dict[str, Any]) -> Path:
    """Write the files of a finished run that its report reads."""
    write_results(folder / "results.json", results)
    make_rounds().to_parquet(folder / "rounds.parquet")
    return folder


@pytest.fixture
def results() -> dict[str, Any]:
    return make_results()


@pytest.fixture
def run_dir(tmp_path: Path, results: dict[str, Any]) -> Path:
    """Folder of a finished run, ready for its report."""
    return write_run(tmp_path, results)


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Run `fedser` with arguments; return its exit status and what it printed."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fedser", *arguments])
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build figures without rendering them, because rendering takes most of a report's time."""
    leave_undrawn(monkeypatch)


def leave_undrawn(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(figures, "png_bytes", lambda figure: b"")
    patch.setattr(figures, "inline_svg", lambda figure: "<svg></svg>")
    patch.setattr("fedser.reports.sweep.sweep_page.sweep_plots", lambda points, read: {})


@pytest.fixture
def drawn(undrawn: None, monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Return the figures that are saved, without rendering them."""
    kept: list[Figure] = []
    monkeypatch.setattr(figures, "save_png", lambda figure, path: kept.append(figure))
    return kept


def legend_of_bare_figure(figure: Figure) -> Any:
    """The extent of a figure's legend, after checking that it hides nothing."""
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    for axes in figure.axes:
        over = axes.get_tightbbox()
        assert over is not None and not legend.overlaps(over)
    return legend


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One cache for all tests: speech, features and shadows are made once.

    The workers of pytest-xdist share it, as processes of a user do: so a test may remove from it
    only what no other test reads.
    """
    own = tmp_path_factory.getbasetemp()
    cache = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cache"
    cache.mkdir(exist_ok=True)
    return cache


def run_main(folder: Path, *arguments: str, draw: bool = True) -> str:
    """Run `fedser` in a folder without an error, for fixtures of a module; return its output."""
    printed = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(printed),
        redirect_stderr(printed),
    ):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["fedser", *arguments])
        if not draw:
            leave_undrawn(patch)
        main()
    return printed.getvalue()


@pytest.fixture
def fedser(cache, tmp_path, monkeypatch, command):
    """Run the command in an empty folder; return its exit status and what it printed."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(tmp_path)
        return command(*arguments, f"cache={cache}")

    return run
