import copy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure
from matplotlib.image import imread

from attacks import figures
from attacks.results import write_results
from attacks.sweep import write_sweep
from tests.attacks.conftest import points

Results = dict[str, Any]


def add_run(folder: Path, overrides: list[str], results: Results | None) -> None:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    if results:
        write_results(folder / "results.json", results)


def variant(results: Results, uar: float, **privacy: Any) -> Results:
    changed = copy.deepcopy(results)
    changed["utility"]["uar"] = uar
    changed["privacy"] |= privacy
    return changed


@pytest.fixture
def sweep_dir(tmp_path: Path, results: Results) -> Path:
    """Three finished runs, one of them without mechanism, and one that failed."""
    shared = ["corpus=ravdess", "+note=x=y"]
    none = dict.fromkeys(("epsilon", "nominal_epsilon", "delta"))
    udp = ["privacy=udp", *shared]
    five = variant(results, 0.41, nominal_epsilon=5.0, epsilon=4522.0)
    five["attacks"] = [attack | {"auc": 0.55} for attack in five["attacks"]]
    add_run(tmp_path / "0", [*udp, "privacy.epsilon=5"], five)
    add_run(tmp_path / "2", [*udp, "privacy.epsilon=25"], variant(results, 0.52))
    add_run(tmp_path / "3", [*udp, "privacy.epsilon=50"], None)
    add_run(
        tmp_path / "10", ["privacy=none", *shared], variant(results, 0.6, mechanism="none", **none)
    )
    return tmp_path


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures as they are saved."""
    kept: list[Figure] = []
    monkeypatch.setattr(figures, "save_png", lambda figure, path: kept.append(figure))
    return kept


def test_table_holds_the_numbers_of_each_run(sweep_dir: Path) -> None:
    path = write_sweep(sweep_dir)
    assert path == sweep_dir / "sweep.csv"
    table = pd.read_csv(path, index_col="run", keep_default_na=False, na_values=[""])
    assert list(table.index) == [0, 2, 3, 10]
    assert list(table["uar"].dropna()) == [0.41, 0.52, 0.6]
    assert list(table["epsilon"].dropna()) == [4522.0, 105306.4]
    assert list(table["nominal_epsilon"].dropna()) == [5.0, 25.0]
    assert list(table["mechanism"].dropna()) == ["udp", "udp", "none"]
    assert table.loc[2, "accuracy"] == 0.607
    assert table.loc[2, "delta"] == 1e-5
    assert table.loc[2, "correlation_auc_one"] == 0.903
    assert table.loc[2, "correlation_auc_most"] == 0.962
    assert table.loc[2, "correlation_uar_calibrated_most"] == 0.841
    assert table.loc[0, "centroid_auc_most"] == 0.55


def test_only_overrides_that_differ_become_columns(sweep_dir: Path) -> None:
    write_sweep(sweep_dir)
    table = pd.read_csv(sweep_dir / "sweep.csv", index_col="run")
    assert list(table.columns[:3]) == ["privacy", "privacy.epsilon", "mechanism"]
    assert list(table["privacy.epsilon"].dropna()) == [5, 25, 50]


def test_failed_run_keeps_its_row_without_figures(sweep_dir: Path) -> None:
    (sweep_dir / "2" / "results.json").write_text("{")
    write_sweep(sweep_dir)
    table = pd.read_csv(sweep_dir / "sweep.csv", index_col="run")
    assert table.loc[3, "mechanism":"centroid_uar_calibrated_most"].isna().all()
    fine, damaged, absent, also_fine = table["problem"].fillna("").astype(str)
    assert fine == also_fine == ""
    assert damaged.startswith("results.json: not a complete JSON file")
    assert absent.startswith("results.json: there are no results yet")


def test_figure_is_an_image_with_something_on_it(sweep_dir: Path) -> None:
    write_sweep(sweep_dir)
    image = imread(sweep_dir / "sweep.png")
    assert min(image.shape[:2]) > 800
    assert image[..., :3].std() > 0.05


def test_figure_puts_runs_by_nominal_epsilon_and_none_at_the_right_edge(
    sweep_dir: Path, drawn: list[Figure]
) -> None:
    write_sweep(sweep_dir)
    upper, lower = drawn[0].axes
    utility = {line.get_label(): points(line) for line in upper.lines}
    assert lower.get_xscale() == "log"
    assert [tick.get_text() for tick in lower.get_xticklabels()] == ["5", "25", "none"]
    assert utility["test UAR, udp"] == ([5, 25], [41, 52])
    assert utility["test UAR, none"][0][0] > 25
    strongest = {line.get_label(): points(line)[1] for line in lower.lines}
    assert strongest["AUC, 1 update, udp"] == [0.55, 0.903]
    assert strongest["AUC, most updates, none"] == [0.962]


def test_runs_without_any_epsilon_are_drawn_by_name(
    tmp_path: Path, results: Results, drawn: list[Figure]
) -> None:
    for seed in range(2):
        absent = variant(results, 0.5 + seed / 10, epsilon=None, nominal_epsilon=None)
        add_run(tmp_path / str(seed), [f"seed={seed}"], absent | {"attacks": []})
    write_sweep(tmp_path)
    lower = drawn[0].axes[1]
    assert [tick.get_text() for tick in lower.get_xticklabels()] == ["seed=0", "seed=1"]
    assert points(drawn[0].axes[0].lines[0])[1] == [50, 60]


def test_sweep_in_which_every_run_failed_leaves_a_table_alone(tmp_path: Path) -> None:
    add_run(tmp_path / "0", ["seed=0"], None)
    add_run(tmp_path / "1", ["seed=1"], None)
    write_sweep(tmp_path)
    assert len(pd.read_csv(tmp_path / "sweep.csv")) == 2
    assert not (tmp_path / "sweep.png").exists()


def test_folder_without_runs_leaves_nothing(tmp_path: Path) -> None:
    assert write_sweep(tmp_path) is None
    assert not list(tmp_path.iterdir())
