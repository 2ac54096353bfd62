from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bokeh.models import Span
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from fedser.reports import figures
from fedser.reports.figures import GREY
from fedser.reports.sweep.find_runs import runs_below
from fedser.reports.sweep.interactive_figure import sweep_plots
from fedser.reports.sweep.points import sweep_points
from fedser.reports.sweep.read_runs import read_runs
from fedser.reports.sweep.static_figure import LARGE, SMALL
from tests.fedser.reports.sweep.sweeps import (
    CENTRAL,
    NO_GUARANTEE,
    Results,
    add_run,
    read_table,
    variant,
    write,
)
from tests.studies import (
    legend_of_bare_figure,
    points,
)


def test_figure_is_an_image_with_something_on_it(sweep_dir: Path) -> None:
    write(sweep_dir)
    image = imread(sweep_dir / "sweep.png")
    assert min(image.shape[:2]) > 1200
    assert image[..., :3].std() > 0.05


def markers(axes: Axes, hollow: bool = False, size: float = LARGE) -> dict[str, Any]:
    """Points by the colour of their mechanism: filled are real epsilons, hollow nominal ones."""
    return {
        str(line.get_color()): points(line)
        for line in axes.lines
        if line.get_marker() != "None"
        and line.get_markersize() == size
        and (line.get_markerfacecolor() == "white") == hollow
        and points(line)[0]
    }


def test_figure_places_runs_by_real_epsilon(sweep_dir: Path, drawn: list[Figure]) -> None:
    write(sweep_dir)
    upper, lower = drawn[0].axes
    udp, central, *_ = figures.PALETTE
    real = markers(upper)
    assert lower.get_xscale() == "log"
    edge = real[figures.INK][0][0]
    assert edge == max(lower.get_xticks()) > 105306.4
    assert [tick.get_text() for tick in lower.get_xticklabels()] == [
        *("1", "10", "100", "1000", "10⁴", "10⁵", "none")
    ]
    assert real == {
        figures.INK: ([edge], [60]),
        udp: ([105306.4, 61000], [52, 41]),
        central: ([7.99, 1], [35, 26]),
    }
    assert markers(lower) == {
        figures.INK: ([edge], [0.995]),
        udp: ([105306.4, 61000], [0.972, 0.55]),
        central: ([7.99, 1], [0.98, 0.97]),
    }
    assert markers(lower, size=SMALL) == {
        figures.INK: ([edge], [0.93]),
        udp: ([105306.4, 61000], [0.785, 0.53]),
        central: ([7.99, 1], [0.91, 0.9]),
    }


def test_sweep_shows_the_chance_levels_of_its_runs(
    sweep_dir: Path, drawn: list[Figure], results: Results
) -> None:
    for fold in results["utility"]["per_fold"]:
        fold["confusion"] = np.diag([3, 0, 3, 3]).tolist()
    add_run(sweep_dir / "12", ["privacy=local", "corpus=ravdess"], results)
    write(sweep_dir)
    assert read_table(sweep_dir)["chance_uar"].dropna().tolist() == [0.25] * 5 + [1 / 3]
    upper, _ = drawn[0].axes
    level = [line.get_ydata()[0] for line in upper.lines if line.get_linestyle() == ":"]
    assert sorted(level) == pytest.approx([25, 100 / 3])
    varied, read = read_runs(runs_below(sweep_dir))
    (plot,) = sweep_plots(sweep_points(varied, read), read).values()
    spans = [span.location for span in plot.children[0].select(Span)]
    assert sorted(spans) == pytest.approx([25, 100 / 3])


def test_figure_ties_the_nominal_epsilon_to_the_real_one(
    sweep_dir: Path, drawn: list[Figure]
) -> None:
    write(sweep_dir)
    upper, lower = drawn[0].axes
    udp = figures.PALETTE[0]
    assert markers(upper, hollow=True) == {udp: ([25, 5], [52, 41])}
    assert markers(lower, hollow=True, size=SMALL) == {udp: ([25, 5], [0.785, 0.53])}
    ties = [points(line) for line in upper.lines if line.get_color() == GREY]
    assert ties == [([25, 105306.4], [52, 52]), ([5, 61000], [41, 41])]


def test_figure_names_mechanisms_with_their_unit_and_the_sample(
    sweep_dir: Path, drawn: list[Figure]
) -> None:
    write(sweep_dir)
    upper, lower = drawn[0].axes
    assert upper.get_title() == "n = 10 speakers, 50 clients per run"
    assert (upper.get_ylabel(), lower.get_xlabel()) == (
        "test UAR (%)",
        "real ε (log scale, δ = 1e-5)",
    )
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == [
        *("none", "udp (client)", "central (client)"),
        *("most leaked updates", "one leaked update", "chance"),
        "folds (UAR), 95 % interval (AUC)",
        *("filled: real ε", "hollow: nominal ε"),
    ]


def test_figure_hides_nothing_under_its_legend(sweep_dir: Path, drawn: list[Figure]) -> None:
    write(sweep_dir)
    (figure,) = drawn
    legend = legend_of_bare_figure(figure)
    assert figure.bbox.y0 <= legend.y0 and legend.x1 <= figure.bbox.x1


def test_line_runs_through_the_mean_of_repeated_runs(
    tmp_path: Path, results: Results, drawn: list[Figure]
) -> None:
    auc = (0.9, 0.9, 0.9)
    for seed, (epsilon, uar) in enumerate([(2.0, 0.3), (2.0, 0.4), (8.0, 0.5)]):
        repeated = variant(results, uar, auc, **CENTRAL, epsilon=epsilon)
        add_run(tmp_path / str(seed), [f"privacy.epsilon={epsilon}", f"seed={seed}"], repeated)
    write(tmp_path)
    upper, lower = drawn[0].axes
    (line,) = [found for found in upper.lines if found.get_linestyle() == "-"]
    assert points(line) == ([2, 8], [35, 50])
    assert markers(upper)[figures.PALETTE[0]] == ([2, 2, 8], [30, 40, 50])
    assert [tick.get_text() for tick in lower.get_xticklabels()] == ["1", "2", "5", "10"]


def test_no_line_leads_to_a_run_without_epsilon(
    tmp_path: Path, results: Results, drawn: list[Figure]
) -> None:
    for number, epsilon in enumerate((2.0, 8.0, None)):
        privacy = {**CENTRAL, "epsilon": epsilon} if epsilon else {**CENTRAL, **NO_GUARANTEE}
        run = variant(results, 0.3 + number / 10, (0.9, 0.9, 0.9), **privacy)
        add_run(tmp_path / str(number), [f"privacy.epsilon={epsilon}"], run)
    write(tmp_path)
    upper, _ = drawn[0].axes
    (line,) = [found for found in upper.lines if found.get_linestyle() == "-"]
    assert points(line) == ([2, 8], [30, 40])
    assert len(markers(upper)[figures.PALETTE[0]][0]) == 3


def test_corpora_have_panels_and_settings_lines_of_their_own(
    tmp_path: Path, results: Results, drawn: list[Figure]
) -> None:
    number = 0
    for corpus, features in (("nemo", "emobase"), ("nemo", "egemaps"), ("emodb", "emobase")):
        for epsilon in (2.0, 8.0):
            run = variant(results, (16 + number) / 64, (0.9, 0.9, 0.9), **CENTRAL, epsilon=epsilon)
            run["corpus"] = {**run["corpus"], "name": corpus}
            overrides = [f"features={features}", f"privacy.epsilon={epsilon}"]
            add_run(tmp_path / str(number), overrides, run)
            number += 1
    write(tmp_path)
    nemo, emodb, leaks_of_nemo, _ = drawn[0].axes
    assert nemo.get_title() == "nemo: n = 10 speakers, 50 clients per run"
    assert emodb.get_title() == "emodb: n = 10 speakers, 50 clients per run"
    for axes, lines in ((nemo, [[16, 17], [18, 19]]), (emodb, [[20, 21]])):
        means = [points(found)[1] for found in axes.lines if found.get_linestyle() == "-"]
        assert sorted(means) == [[100 * n / 64 for n in line] for line in lines]
    (intervals,) = {
        tuple(path.vertices[:, 1])
        for collection in leaks_of_nemo.collections
        for path in collection.get_paths()
    }
    assert intervals == (0.851, 0.948)


def test_runs_without_any_epsilon_are_drawn_by_name(
    tmp_path: Path, results: Results, drawn: list[Figure]
) -> None:
    for seed in range(2):
        absent = variant(results, 0.5 + seed / 10, (0.9, 0.9, 0.9), **NO_GUARANTEE)
        add_run(tmp_path / str(seed), [f"seed={seed}"], absent | {"attacks": []})
    write(tmp_path)
    upper, lower = drawn[0].axes
    assert [tick.get_text() for tick in lower.get_xticklabels()] == ["seed=0", "seed=1"]
    assert markers(upper)[figures.PALETTE[0]] == ([0, 1], [50, 60])
