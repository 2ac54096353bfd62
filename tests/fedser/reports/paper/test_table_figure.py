from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from fedser.reports import figures
from fedser.reports.paper.table_figure import GREY
from fedser.reports.paper.table_report import write_table
from tests.fedser.reports.paper.tables import LAYERS, AddRun, by_layer, table_of
from tests.studies import legend_of_bare_figure, points


def colors(axes: Any) -> set[str]:
    return {to_hex(line.get_color()) for line in axes.lines if points(line)[0]}


def test_figure_draws_published_figures_in_grey_beside_ours(
    tmp_path: Path, add_run: AddRun, drawn: list[Figure]
) -> None:
    for algorithm in ("fedavg", "fedsgd"):
        add_run({"algorithm": algorithm}, by_layer(0.9))
    write_table(tmp_path, "layers")
    upper, other, lower, _ = drawn[0].axes
    ours = figures.PALETTE[0].lower()
    assert {GREY, ours} <= colors(upper)
    assert [axes.get_title() for axes in (upper, other)] == ["algorithm fedavg", "algorithm fedsgd"]
    assert (upper.get_ylabel(), lower.get_ylabel()) == (
        "UAR (%, 50 = guessing)",
        "AUC (0.5 = guessing)",
    )
    assert [tick.get_text() for tick in lower.get_xticklabels()] == list(LAYERS)
    assert drawn[0].get_suptitle() == "ours: n = 9 speakers, 45 clients; intervals 95 %"
    (aucs,) = [points(line)[1] for line in lower.lines if to_hex(line.get_color()) == ours]
    assert aucs == pytest.approx([0.9, 0.8, 0.7, 0.6])
    (bars,) = lower.collections
    assert bars.get_segments()[0][:, 1].tolist() == pytest.approx([0.85, 0.94])  # type: ignore[attr-defined]
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels[:2] == ["correlation, nemo", "published, iemocap"]


def test_figure_rings_the_points_below_the_cnn(comparison_dir: Path, drawn: list[Figure]) -> None:
    write_table(comparison_dir, "comparison")
    _, _, without, under = drawn[0].axes
    rings = [
        [points(line)[1] for line in axes.lines if line.get_markersize() == 10 and points(line)[0]]
        for axes in (without, under)
    ]
    assert rings == [[], [[0.64]]]
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels[:4] == ["statistics", "correlation", "fusion", "cnn"]
    assert "best of ours, below cnn" in labels


def test_figure_is_an_image_whose_legend_hides_nothing(
    comparison_dir: Path, drawn: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(comparison_dir, "comparison")
    (figure,) = drawn
    legend_of_bare_figure(figure)
    monkeypatch.undo()
    write_table(comparison_dir, "comparison")
    image = imread(comparison_dir / "table.png")
    assert min(image.shape[:2]) > 1000 and image[..., :3].std() > 0.05


def test_a_single_run_is_a_table_too(tmp_path: Path, add_run: AddRun) -> None:
    add_run({"algorithm": "fedavg"}, by_layer(0.9, ["first"]))
    grid, _ = table_of(tmp_path, "layers")
    assert set(grid["algorithm"]) == {"fedavg"}  # nothing of the study's FedSGD
    assert len(grid) == 3 + 3
    assert (tmp_path / "table.png").stat().st_size > 5000
