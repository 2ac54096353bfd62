from pathlib import Path

import pandas as pd
import pytest

from tests.fedser.reports.paper.tables import (
    AddRun,
    compared,
    row_of,
    scored,
    table_of,
)

pytestmark = pytest.mark.usefixtures("undrawn")


def test_comparison_shows_every_attack_and_the_best_of_ours(comparison_dir: Path) -> None:
    grid, notes = table_of(comparison_dir, "comparison")
    assert list(grid) == [
        *("privacy", "leaked updates", "metric"),
        *("statistics", "correlation", "fusion", "cnn"),  # ours, the fusion of ours, theirs
        *("best of ours", "against cnn", "differs from the study in"),
    ]
    assert len(grid) == 2 * 2 * 2
    row = row_of(grid, privacy="none", leaked_updates="all", metric="AUC")
    assert (row["fusion"], row["cnn"]) == ("0.920 (0.870–0.960)", "0.700 (0.650–0.740)")
    assert (row["best of ours"], row["against cnn"]) == ("fusion", "+0.220")
    row = row_of(grid, privacy="none", leaked_updates="all", metric="UAR calibrated (%)")
    assert (row["fusion"], row["cnn"]) == ("82.0", "60.0")
    assert row["against cnn"] == "+22.0"
    assert any("In every row of ours: features emobase, algorithm fedavg" in note for note in notes)


def test_comparison_marks_where_ours_is_below(comparison_dir: Path) -> None:
    grid, notes = table_of(comparison_dir, "comparison")
    marks = {
        (row["privacy"], row["leaked updates"], row["metric"]): row["against cnn"]
        for row in grid.to_dict("records")
        if "below" in row["against cnn"]
    }
    assert marks == {
        ("udp 50", "1", "AUC"): "−0.020, below",
        ("udp 50", "1", "UAR calibrated (%)"): "−2.0, below",
    }
    summary = "The AUC of the best of ours is below cnn at 1 of 3 points: "
    assert f"{summary}privacy udp 50, leaked updates 1 (−0.020)." in notes
    records = pd.read_csv(comparison_dir / "table.csv", keep_default_na=False, na_values=[""])
    best = records[records["best_of_ours"]]
    assert list(best["attack"]) == ["fusion", "fusion", "correlation", "correlation"]
    against = best["auc_against_cnn"].tolist()
    assert against == pytest.approx([0.22, 0.22, -0.02, float("nan")], nan_ok=True)


def test_comparison_holds_attacks_of_several_layers_in_one_row(
    tmp_path: Path, add_run: AddRun
) -> None:
    first, both = scored(0.7, layer="first"), scored(0.8, name="fusion", layer="all")
    add_run({}, [first, both, scored(0.75, name="cnn", layer="first")])
    grid, _ = table_of(tmp_path, "comparison")
    assert "layer" not in grid
    assert list(grid["against cnn"]) == ["+0.050", "+5.0"]


def test_comparison_without_the_cnn_says_so(tmp_path: Path, add_run: AddRun) -> None:
    add_run({"privacy": "none"}, compared({"statistics": 0.6, "correlation": 0.9}))
    grid, notes = table_of(tmp_path, "comparison")
    assert "against cnn" not in grid
    assert list(grid["best of ours"]) == ["correlation"] * 2
    assert any(note.startswith("cnn was not run") for note in notes)


def test_comparison_of_the_cnn_alone_has_no_best_of_ours(tmp_path: Path, add_run: AddRun) -> None:
    add_run({"privacy": "none"}, compared({"cnn": 0.8, "statistics": None}))
    grid, _ = table_of(tmp_path, "comparison")
    assert list(grid["cnn"]) == ["0.800 (0.750–0.840)", "70.0"]
    assert list(grid["statistics"]) == ["", ""]
    assert set(grid["best of ours"]) <= {""}
