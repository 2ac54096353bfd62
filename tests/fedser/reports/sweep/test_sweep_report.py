import copy
import io
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from bokeh.models import Span
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from rich.console import Console

from fedser.common.errors import UserError
from fedser.conf.build import compose
from fedser.conf.privacy_points import PRIVACY_POINTS
from fedser.reports import figures
from fedser.reports.figures import GREY
from fedser.reports.sweep.find_runs import find_runs, runs_below, sweep_folder
from fedser.reports.sweep.interactive_figure import sweep_plots
from fedser.reports.sweep.points import sweep_points
from fedser.reports.sweep.read_runs import UNFINISHED, read_runs
from fedser.reports.sweep.static_figure import LARGE, SMALL
from fedser.reports.sweep.sweep_report import write_sweep
from fedser.reports.sweep.terminal_table import sweep_table
from fedser.results.files import write_results
from fedser.server.study.run import study_config
from tests.studies import (
    legend_of_bare_figure,
    make_attack,
    make_verification,
    points,
)

Results = dict[str, Any]
Command = Callable[..., tuple[int, str]]

OUTSIDER = "whoever sees the models of all rounds; not the server"
NO_GUARANTEE = dict.fromkeys(
    ("epsilon", "nominal_epsilon", "participation", "delta", "unit", "relation")
)
CENTRAL = {
    "mechanism": "central",
    "participation": "secret",
    "nominal_epsilon": None,
    "vantage": OUTSIDER,
    "sampling": "poisson",
}


def add_run(folder: Path, overrides: list[str], results: Results | None) -> None:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    if results:
        write_results(folder / "results.json", results)


def variant(results: Results, uar: float, auc: Sequence[float], **privacy: Any) -> Results:
    """Results with another UAR, another AUC of correlation at 1, 20 and all, another guarantee."""
    changed = copy.deepcopy(results)
    changed["utility"]["uar"] = uar
    changed["privacy"] |= privacy
    changed["attacks"] = [
        make_attack(leaked_updates=leaked, auc=value, uar_calibrated=round(value - 0.1, 3))
        for leaked, value in zip((1, 5, 20, "all"), (auc[0], 0.5, *auc[1:]), strict=True)
    ]
    changed["attacks"] += [
        make_attack(name="centroid", auc=0.52, leaked_updates=leaked) for leaked in (1, 5)
    ]
    return changed


@pytest.fixture
def sweep_dir(tmp_path: Path, results: Results) -> Path:
    """Five finished runs, one of them without mechanism, and one that failed."""
    shared = ["corpus=ravdess", "+note=x=y"]
    five = {"nominal_epsilon": 5.0, "epsilon": 61000.0}
    central = {"epsilon": 7.99, "epsilon_known_participation": 24.8}
    for number, (point, found) in enumerate(
        {
            "none": variant(results, 0.6, (0.93, 0.99, 0.995), mechanism="none", **NO_GUARANTEE),
            "udp_25": variant(results, 0.52, (0.785, 0.95, 0.972)),
            "udp_5": variant(results, 0.41, (0.53, 0.54, 0.55), **five),
            "udp_50": None,
            "central_8": variant(results, 0.35, (0.91, 0.96, 0.98), **CENTRAL, **central),
            "central_1": variant(results, 0.26, (0.9, 0.94, 0.97), **CENTRAL, epsilon=1.0),
        }.items()
    ):
        add_run(tmp_path / str(2 * number), [f"privacy={point}", *shared], found)
    return tmp_path


def write(folder: Path) -> Path:
    return write_sweep(folder, runs_below(folder))


def read_table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "sweep.csv", index_col="run", keep_default_na=False, na_values=[""])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures as they are saved."""
    kept: list[Figure] = []
    monkeypatch.setattr(figures, "save_png", lambda figure, path: kept.append(figure))
    return kept


def test_table_holds_the_numbers_of_each_run(sweep_dir: Path) -> None:
    assert write(sweep_dir) == sweep_dir / "sweep.csv"
    table = read_table(sweep_dir)
    assert list(table.index) == [0, 2, 4, 6, 8, 10]
    expected = {
        "mechanism": ["none", "udp", "udp", "central", "central"],
        "uar": [0.6, 0.52, 0.41, 0.35, 0.26],
        "accuracy": [0.607] * 5,
        "nominal_epsilon": [25, 5],
        "epsilon": [105306.4, 61000, 7.99, 1],
        "epsilon_known_participation": [24.8],
        "participation": ["known", "known", "secret", "secret"],
        "delta": [1e-5] * 4,
        "unit": ["client"] * 4,
        "vantage": ["the server, which sees every update with its sender"] * 3 + [OUTSIDER] * 2,
        "speakers": [10] * 5,
    }
    assert {column: list(table[column].dropna()) for column in expected} == expected


def test_attacks_have_a_column_at_one_at_twenty_and_at_the_most_leaked_updates(
    sweep_dir: Path,
) -> None:
    write(sweep_dir)
    table = read_table(sweep_dir)
    attacked = [n for n in map(str, table) if "_auc_" in n or "_uar_calibrated_" in n]
    assert attacked == [
        f"{attack}_{figure}"
        for attack, counts in {"correlation": (1, 20, "all"), "centroid": (1, 5)}.items()
        for n in counts
        for figure in (f"auc_{n}", f"auc_{n}_low", f"auc_{n}_high", f"uar_calibrated_{n}")
    ]
    values = {f"correlation_auc_{n}": v for n, v in ((1, 0.785), (20, 0.95), ("all", 0.972))}
    assert table.loc[2, list(values)].to_dict() == values
    assert (
        table["correlation_auc_1_low"][2] == 0.851 and table["correlation_auc_1_high"][2] == 0.948
    )
    assert table["correlation_uar_calibrated_20"][2] == pytest.approx(0.85)
    assert list(table.filter(like="centroid_auc_5").loc[2]) == [0.52, 0.851, 0.948]


def test_recognition_has_an_error_rate_and_no_auc(tmp_path: Path, results: Results) -> None:
    found = [
        make_verification(across=across, leaked_updates=leaked, auc=0.99, eer=eer)
        for across, leaked, eer in (("rounds", 1, 0.1), ("rounds", 5, 0.05), ("shards", 5, 0.2))
    ]
    inferred = variant(results, 0.6, (0.7, 0.8, 0.9))
    add_run(tmp_path / "0", ["adversary.attribute=gender"], inferred)
    add_run(tmp_path / "1", ["adversary.attribute=speaker"], inferred | {"attacks": found})
    written = write(tmp_path)
    table = read_table(tmp_path)
    rates = {
        "correlation_speaker across rounds_eer_1": 0.1,
        "correlation_speaker across rounds_eer_5": 0.05,
        "correlation_speaker across shards_eer_5": 0.2,
    }
    assert table.filter(regex=r"_eer_\d$").loc[1].to_dict() == rates
    assert table["correlation_speaker across shards_eer_5_high"][1] == 0.262
    assert table.filter(like="_auc_").loc[1].isna().all()
    printed = sweep_table(written)
    shown = {str(c.header): [str(cell) for cell in c.cells] for c in printed.columns}
    assert shown["AUC\n1"] == ["0.700", ""] and shown["AUC\n20"] == ["0.800", ""]


def test_only_overrides_that_differ_become_columns(sweep_dir: Path) -> None:
    write(sweep_dir)
    table = read_table(sweep_dir)
    assert list(table.columns[:2]) == ["privacy", "mechanism"]
    assert list(table["privacy"]) == ["none", "udp_25", "udp_5", "udp_50", "central_8", "central_1"]


def test_failed_run_keeps_its_row_without_figures(sweep_dir: Path) -> None:
    (sweep_dir / "4" / "results.json").write_text("{")
    write(sweep_dir)
    table = read_table(sweep_dir)
    assert table.loc[6, "mechanism":"centroid_uar_calibrated_5"].isna().all()
    problems = table["problem"].dropna()
    assert list(problems.index) == [4, 6]
    assert problems[4].startswith("results.json: not a complete JSON file")
    assert problems[6] == UNFINISHED
    (sweep_dir / "6" / "problem.txt").write_text("rounds=0 must be at least 1")
    write(sweep_dir)
    assert read_table(sweep_dir)["problem"][6] == "rounds=0 must be at least 1"


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


def test_figure_puts_runs_by_real_epsilon_and_none_at_the_right_edge(
    sweep_dir: Path, drawn: list[Figure]
) -> None:
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
    assert upper.get_title() == "n = 10 speakers and 50 clients a run"
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


def test_no_line_leads_to_where_there_is_no_epsilon(
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
    assert nemo.get_title() == "nemo: n = 10 speakers and 50 clients a run"
    assert emodb.get_title() == "emodb: n = 10 speakers and 50 clients a run"
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


def test_sweep_in_which_every_run_failed_leaves_a_table_alone(tmp_path: Path) -> None:
    add_run(tmp_path / "0", ["seed=0"], None)
    add_run(tmp_path / "1", ["seed=1"], None)
    written = write(tmp_path)
    assert len(pd.read_csv(written)) == 2
    assert not (tmp_path / "sweep.png").exists()
    assert f"seed=0, seed=1: {UNFINISHED}" in printed(written)


def test_runs_are_found_by_folder_and_glob(tmp_path: Path) -> None:
    for name in ("a/10", "a/2", "a/3", "a/4", "b/0", "b/files/copy", "c/deep/1"):
        add_run(tmp_path / name, [], None)
    (tmp_path / "a" / "2" / "transcript" / ".hydra").mkdir(parents=True)  # none below a run
    (tmp_path / "a" / "4" / "sweep.html").touch()  # a report on runs is none
    (tmp_path / "note.txt").touch()

    def names(*patterns: str) -> list[str]:
        found = find_runs([f"{tmp_path}/{p}" for p in patterns], exclude=tmp_path / "a" / "3")
        return [str(run.relative_to(tmp_path)) for run in found]

    assert names("a") == ["a/2", "a/10"]
    assert names("a/1*") == ["a/10"]
    assert names("*") == names("") == ["a/2", "a/10", "b/0", "c/deep/1"]
    assert names("b/0", "a/2", "b", "a") == ["b/0", "a/2", "a/10"]
    with pytest.raises(UserError, match=r"runs=.*/d\*: no run is there; name the folder"):
        names("a", "d*")


def test_sweep_has_a_folder_if_it_is_named_by_that_one(tmp_path: Path) -> None:
    for name in ("a/0", "b/0"):
        add_run(tmp_path / name, [], None)
    assert sweep_folder([f"{tmp_path}/a"]) == sweep_folder([f"{tmp_path}/a*"]) == tmp_path / "a"
    assert sweep_folder([str(tmp_path)]) == tmp_path
    for several in ([f"{tmp_path}/*"], [f"{tmp_path}/a/0"], [f"{tmp_path}/a/*"], []):
        assert sweep_folder(several) is None


def printed(path: Path, width: int = 120) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(sweep_table(path))
    return " ".join(console.export_text().split())


def test_printed_table_shows_utility_leakage_and_both_epsilons(sweep_dir: Path) -> None:
    written = write(sweep_dir)
    text = printed(written)
    for row in (
        "run mechanism UAR 1 20 real known nominal unit vantage",
        "none none 0.600 0.930 0.990 a",
        "udp_25 udp 0.520 0.785 0.950 105,307 25 client a",
        "udp_50 central_8",  # failed
        "central_8 central 0.350 0.910 0.960 7.99 24.8 client b",
        "central_1 central 0.260 0.900 0.940 1 client b",
        "a: the server, which sees every update with its sender",
        f"b: {OUTSIDER}",
        f"udp_50: {UNFINISHED}",
    ):
        assert row in text


def test_printed_table_fits_eighty_columns_without_cutting_names(sweep_dir: Path) -> None:
    written = write(sweep_dir)
    assert "…" not in printed(written, width=80)
    assert "central_8" in printed(written, width=80)


def test_printed_table_takes_brackets_for_what_they_are(tmp_path: Path, results: Results) -> None:
    for number, shadow in enumerate(("[nemo]", "[emodb]")):
        add_run(tmp_path / str(number), [f"shadow={shadow}"], results)
    written = write(tmp_path)
    assert "shadow=[nemo]" in printed(written)


def test_report_over_one_sweep_goes_to_its_folder(
    sweep_dir: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sweep_dir.parent)
    status, said = command("stage=report", f"runs={sweep_dir.name}")
    assert status == 0 and f"report: {sweep_dir}/sweep.html" in said and "udp_50" in said
    assert {"sweep.html", "sweep.csv", "sweep.png"} <= {path.name for path in sweep_dir.iterdir()}
    assert not (sweep_dir / ".hydra").exists() and not (sweep_dir.parent / "outputs").exists()


def test_report_over_several_folders_goes_to_a_folder_of_its_own(
    tmp_path: Path, results: Results, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one/0", "one/1", "two/0"):
        add_run(tmp_path / name, [f"note={name}"], results)
        (tmp_path / name / "report.html").touch()
    status, _ = command("stage=report", "runs=[one,two]")
    (folder,) = tmp_path.glob("outputs/*/*")
    assert status == 0
    assert list(read_table(folder).index) == ["one/0", "one/1", "two/0"]
    page = (folder / "sweep.html").read_text("utf-8")
    links = re.findall(r'<a href="([^"]+)"', page)
    expected = [tmp_path / name / "report.html" for name in ("one/0", "one/1", "two/0")]
    assert [(folder / link).resolve() for link in links] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stage=report", "runs=none/*"], "runs=none/*: no run is there; name the folder"),
        (["stage=report", "runs=[a,5]"], "runs=5: no run is there"),
        (["stage=train", "runs=a"], "stage=train takes no runs; set stage=report"),
        (["stage=report", "runs=a", "run=a/0"], "runs goes without run and resume"),
    ],
)
def test_runs_that_cannot_be_reported_get_one_line_and_leave_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    add_run(tmp_path / "a" / "0", ["seed=0"], None)
    before = sorted(tmp_path.rglob("*"))
    status, said = command(*arguments)
    (line,) = [line for line in said.splitlines() if line.startswith("fedser: ")]
    assert status == 2 and message in line
    assert sorted(tmp_path.rglob("*")) == before


FRONTIER = ["none", *PRIVACY_POINTS]


def test_frontier_sweeps_over_every_point_once() -> None:
    experiment = resources.files("fedser.conf").joinpath("experiment", "privacy_frontier.yaml")
    hydra = yaml.safe_load(experiment.read_text("utf-8"))["hydra"]
    swept = [name.strip() for name in hydra["sweeper"]["params"]["privacy"].split(",")]
    assert swept == FRONTIER
    assert hydra["mode"] == "MULTIRUN"
    assert swept == [
        "none",
        *(f"udp_{epsilon}" for epsilon in (50, 25, 10, 5)),
        *(f"central_{epsilon}" for epsilon in (1, 2, 4, 8)),
        *(f"central_adaptive_{epsilon}" for epsilon in (1, 2, 4, 8)),
        *("local_8", "local_16", "dp_sgd_8", "layered_8"),
    ]


@pytest.mark.parametrize("point", FRONTIER)
def test_point_of_the_frontier_is_a_study_that_may_run(point: str) -> None:
    config = study_config(compose(["experiment=privacy_frontier", f"privacy={point}"]))
    mechanism, _, epsilon = point.rpartition("_")
    assert config.privacy.mechanism == (mechanism or "none")
    assert config.privacy.epsilon == (float(epsilon) if mechanism else None)
    assert config.corpus["name"] == "nemo"
    assert config.shadow == ["ravdess", "emodb"]


def test_point_and_defaults_of_the_frontier_can_be_overridden() -> None:
    changes = ["privacy=udp_50", "privacy.epsilon=7", "corpus=emodb", "shadow=[nemo]"]
    config = study_config(compose(["experiment=privacy_frontier", *changes]))
    assert (config.privacy.mechanism, config.privacy.epsilon) == ("udp", 7)
    assert (config.corpus["name"], config.shadow) == ("emodb", ["nemo"])


def test_frontier_is_a_multirun_by_itself(tmp_path: Path) -> None:
    small = ["corpus=synthetic", "corpus.speakers=6", "corpus.utterances_per_speaker=4"]
    changes = ["privacy=none,udp_50", "shadow=[]", "stage=check", f"cache={tmp_path / 'cache'}"]
    command = [
        sys.executable,
        "-m",
        "fedser",
        "experiment=privacy_frontier",
        *small,
        *changes,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr.count("6 speakers") == 2
    runs = sorted(path.parent for path in tmp_path.glob("multirun/*/*/*/.hydra"))
    assert [run.name for run in runs] == ["0", "1"]
    configs = [yaml.safe_load((run / ".hydra" / "config.yaml").read_text()) for run in runs]
    assert [config["privacy"]["mechanism"] for config in configs] == ["none", "udp"]
    assert configs[1]["privacy"]["epsilon"] == 50
    assert list(read_table(runs[0].parent)["privacy"]) == ["none", "udp_50"]
