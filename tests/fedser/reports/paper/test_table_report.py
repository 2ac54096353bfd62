from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from fedser.cli.sweep_callback import SweepCallback
from fedser.reports.paper import published
from fedser.reports.paper.layouts import LAYOUTS
from fedser.reports.paper.table_report import write_table
from tests.fedser.reports.paper.tables import (
    LAYERS,
    AddRun,
    Results,
    by_layer,
    by_updates,
    printed,
    row_of,
    scored,
    table_of,
)

pytestmark = pytest.mark.usefixtures("undrawn")


def test_layers_stand_beside_the_published_ones(tmp_path: Path, add_run: AddRun) -> None:
    for algorithm, base in (("fedavg", 0.9), ("fedsgd", 0.85)):
        add_run({"algorithm": algorithm}, by_layer(base))
    grid, notes = table_of(tmp_path, "layers")
    assert list(grid) == [
        *("algorithm", "private corpus", "attack", "metric"),
        *(*LAYERS, "differs from the study in"),
    ]
    assert list(grid["private corpus"][:6]) == ["iemocap", "msp_improv", "crema_d", *["nemo"] * 3]
    assert list(grid["algorithm"]) == ["fedavg"] * 6 + ["fedsgd"] * 6
    theirs = row_of(grid, algorithm="fedavg", private_corpus="crema_d")
    assert [theirs[layer] for layer in LAYERS] == ["81.8", "59.3", "56.1", ""]
    assert theirs["differs from the study in"] == ""
    ours = {"algorithm": "fedsgd", "private_corpus": "nemo", "attack": "correlation"}
    auc = row_of(grid, **ours, metric="AUC")
    assert (auc["first"], auc["all"]) == ("0.850 (0.800–0.890)", "0.550 (0.500–0.590)")
    assert auc["differs from the study in"] == "corpus, language, shadow, attack, metric"
    assert row_of(grid, **ours, metric="UAR calibrated (%)")["second"] == "65.0"
    fixed = row_of(grid, **ours, metric="UAR fixed (%)")
    assert fixed["last"] == "51.0"
    assert fixed["differs from the study in"] == "corpus, language, shadow, attack"
    assert "nemo (Polish): 9 speakers, 45 clients, attacked from ravdess (English) and " in notes[1]
    assert any("2112.13416" in note for note in notes)
    assert "*language*: the study's corpora are English." in notes


def test_csv_has_every_figure_unrounded(tmp_path: Path, add_run: AddRun) -> None:
    add_run({"algorithm": "fedavg"}, [scored(0.87654321, layer="first")])
    write_table(tmp_path, "layers")
    records = pd.read_csv(tmp_path / "table.csv", keep_default_na=False, na_values=[""])
    theirs, ours = (records[records["origin"] == origin] for origin in ("published", "ours"))
    assert len(theirs) == 9
    assert set(theirs["uar_fixed"]) >= {0.8738, 0.5920, 0.5213}
    assert theirs["auc"].isna().all()
    figures_of = ["auc", "auc_low", "auc_high", "uar_fixed", "uar_calibrated"]
    (found,) = ours[figures_of].to_numpy().tolist()
    assert found == pytest.approx([0.87654321, 0.82654321, 0.91654321, 0.51, 0.77654321])
    assert ours["shadow_corpora"].iloc[0] == "ravdess+emodb"


def test_a_failed_run_leaves_its_cells_empty_and_its_reason(
    tmp_path: Path, add_run: AddRun
) -> None:
    add_run({"privacy": "none"}, by_updates(0.9, [1, "all"]))
    add_run({"privacy": "udp_50"}, "rounds=0 must be [at least] 1")
    grid, notes = table_of(tmp_path, "updates")
    failed = row_of(grid, privacy="udp 50", attack="correlation", metric="AUC")
    assert [failed[leaked] for leaked in ("1", "3", "5", "10", "all")] == [""] * 5
    assert row_of(grid, privacy="udp 50", private_corpus="iemocap")["all"] == "74.8"
    assert "No results of udp_50: rounds=0 must be [at least] 1" in notes
    assert "rounds=0 must be [at least] 1" in printed(tmp_path, "updates")


def test_a_failed_run_without_configuration_is_named(tmp_path: Path, add_run: AddRun) -> None:
    add_run({"privacy": "none"}, by_updates(0.9, [1]))
    add_run({"privacy": "udp_50"}, "killed")
    (tmp_path / "1" / ".hydra" / "config.yaml").unlink()
    grid, notes = table_of(tmp_path, "updates")
    assert set(grid["privacy"]) == {"none"}
    assert "No results of udp_50: killed" in notes


def test_table_of_failed_runs_shows_the_reasons(tmp_path: Path, add_run: AddRun) -> None:
    add_run({"algorithm": "fedavg"}, "no disk")
    add_run({"algorithm": "fedsgd"}, "no disk")
    grid, notes = table_of(tmp_path, "layers")
    assert set(grid["attack"]) == {"published"}
    assert notes[-2:] == [f"No results of algorithm={a}: no disk" for a in ("fedavg", "fedsgd")]
    assert not (tmp_path / "table.png").exists()


def recognised(results: Results, base: float) -> Results:
    """What a run recognises of emotions: the fold n gives base + n points."""
    folds = [
        fold | {"uar": base + n / 100, "accuracy": base + 0.1 + n / 100}
        for n, fold in enumerate(results["utility"]["per_fold"])
    ]
    return {"uar": base + 0.02, "accuracy": base + 0.12, "best_round": 150, "per_fold": folds}


def test_recognition_stands_beside_both_published_versions(
    tmp_path: Path, add_run: AddRun, results: Results
) -> None:
    for privacy, base in (("udp_5", 0.4), ("none", 0.6)):
        results["utility"] = recognised(results, base)
        add_run({"privacy": privacy, "corpus": "crema_d"}, [])
    grid, notes = table_of(tmp_path, "utility")
    assert list(grid) == [
        *("features", "private corpus", "run", "source", "metric"),
        *("none", "udp 5", "differs from the study in"),
    ]
    ours = {"private_corpus": "crema_d", "source": "ours", "features": "emobase"}
    uar = row_of(grid, **ours, metric="UAR (%)")
    assert (uar["none"], uar["udp 5"]) == ("62.0 (60.0–64.0)", "42.0 (40.0–44.0)")
    assert uar["differs from the study in"] == ""
    assert row_of(grid, **ours, metric="accuracy (%)")["none"] == "72.0 (70.0–74.0)"
    source = pd.read_csv(Path(str(published.__file__)).with_name("ser_utility.csv"), dtype=str)
    where = {"corpora": "crema-d", "features": "emobase", "algorithm": "fed_avg"}
    own = source[(source[list(where)] == pd.Series(where)).all(axis="columns")]
    for version, rows in own[own["nominal_epsilon"].isin(["inf", "5"])].groupby("snapshot"):
        row = row_of(grid, private_corpus="crema_d", run=str(version), metric="UAR (%)")
        expected = rows.set_index("nominal_epsilon")["uar"].astype(float).map("{:.1f}".format)
        shown = {"inf": row["none"], "5": row["udp 5"]}
        assert {key: text for key, text in shown.items() if text} == expected.to_dict()
    assert "crema_d (English): 10 speakers, 50 clients." in notes
    assert any("2204.02500" in note and "means of five folds" in note for note in notes)


def test_features_of_the_study_stand_beside_its_own(tmp_path: Path, add_run: AddRun) -> None:
    add_run({"features": "tera"}, by_updates(0.9, [1, "all"]))
    add_run({"features": "emobase"}, by_updates(0.8, [1, "all"]))
    grid, notes = table_of(tmp_path, "updates")
    assert set(grid.loc[grid["attack"] == "published", "features"]) == {"emobase", "tera"}
    ours = row_of(grid, features="tera", attack="correlation", metric="UAR fixed (%)")
    assert "features" not in ours["differs from the study in"].split(", ")
    assert any(note.endswith("features emobase, tera.") for note in notes)


def test_other_features_stand_beside_emobase(tmp_path: Path, add_run: AddRun) -> None:
    add_run({"features": "eGeMAPSv02"}, by_updates(0.9, [1, "all"]))
    grid, _ = table_of(tmp_path, "updates")
    assert set(grid["features"]) == {"emobase", "eGeMAPSv02"}
    assert "features" in row_of(grid, features="eGeMAPSv02", metric="AUC")[grid.columns[-1]]


@pytest.mark.parametrize("table", [name for name in LAYOUTS if name != "utility"])
def test_comparison_of_nothing(tmp_path: Path, table: str, add_run: AddRun) -> None:
    assert write_table(tmp_path, table) is None
    add_run({}, [])  # a sweep that attacked nothing
    assert write_table(tmp_path, table) is None
    assert not (tmp_path / "table.md").exists()


def test_updates_stand_beside_those_of_the_swept_epsilons(tmp_path: Path, add_run: AddRun) -> None:
    counts = (1, 3, 5, 10, "all")
    for privacy, base in (("none", 0.8), ("udp_50", 0.7), ("udp_5", 0.5)):
        add_run({"privacy": privacy}, by_updates(base, counts))
    grid, notes = table_of(tmp_path, "updates")
    assert list(grid)[4:9] == [str(leaked) for leaked in counts]
    assert list(dict.fromkeys(grid["privacy"])) == ["none", "udp 50", "udp 5"]
    theirs = row_of(grid, privacy="udp 50", private_corpus="iemocap")
    assert [theirs[str(leaked)] for leaked in counts] == ["51.7", "55.2", "59.9", "67.5", "74.8"]
    ours = row_of(grid, privacy="udp 5", private_corpus="nemo", metric="AUC")
    assert ours["all"] == "0.580 (0.530–0.620)"
    assert "combination" not in ours["differs from the study in"]
    assert any("100 leaked updates" in note for note in notes)
    shared = "features emobase, algorithm fedavg, dropout 0.2, layer first, selection random"
    assert f"In every row of ours: {shared}, combination updates, vantage attributed." in notes


def test_dropout_stands_beside_both_published_versions(tmp_path: Path, add_run: AddRun) -> None:
    for dropout in (0.2, 0.4, 0.6):
        for algorithm in ("fedavg", "fedsgd"):
            add_run({"model.dropout": dropout, "algorithm": algorithm}, [scored(0.5 + dropout / 2)])
    grid, notes = table_of(tmp_path, "dropout")
    theirs = grid[grid["attack"] == "published"]
    assert set(theirs["algorithm"]) == {"fedavg"}
    assert len(theirs) == 6
    found = row_of(grid, private_corpus="iemocap", run="315eb9b")
    assert [found[dropout] for dropout in ("0.2", "0.4", "0.6")] == ["87.7", "89.5", "91.4"]
    ours = row_of(grid, algorithm="fedsgd", metric="UAR calibrated (%)")
    assert [ours[dropout] for dropout in ("0.2", "0.4", "0.6")] == ["50.0", "60.0", "70.0"]
    assert any("github.com/usc-sail/fed-ser-leakage" in note for note in notes)


def test_other_swept_keys_name_the_run(tmp_path: Path, add_run: AddRun) -> None:
    for seed in (0, 1):
        add_run({"algorithm": "fedavg", "seed": seed}, by_layer(0.8 + seed / 10))
    grid, _ = table_of(tmp_path, "layers")
    aucs = grid[grid["metric"] == "AUC"]
    assert dict(zip(aucs["run"], aucs["first"], strict=True)) == {
        "seed=0": "0.800 (0.750–0.840)",
        "seed=1": "0.900 (0.850–0.940)",
    }


def test_speaker_recognition_is_not_in_the_table(tmp_path: Path, add_run: AddRun) -> None:
    nothing = dict.fromkeys(
        ("uar_calibrated", "uar_fixed", "tpr_at_fpr_01", "tpr_at_fpr_10", "advantage", "ece")
    )
    again = {"attribute": "speaker", "across": "rounds", "p_value": None, "roc": None}
    add_run({}, [scored(0.7), scored(0.9, eer=0.2, name="reidentification", **again, **nothing)])
    grid, _ = table_of(tmp_path, "dropout")
    assert set(grid["attack"]) == {"published", "correlation"}


def test_attacks_of_one_name_are_told_apart(tmp_path: Path, add_run: AddRun) -> None:
    twice = [scored(0.7 + aware / 10, layer="first", aware=aware) for aware in (False, True)]
    add_run({}, twice)
    grid, _ = table_of(tmp_path, "layers")
    assert {"correlation, unaware", "correlation, aware"} < set(grid["attack"])


def test_sweep_ends_in_its_table(
    tmp_path: Path, add_run: AddRun, capsys: pytest.CaptureFixture[str]
) -> None:
    add_run({"algorithm": "fedavg"}, by_layer(0.9))
    config = {"table": "layers", "hydra": {"sweep": {"dir": str(tmp_path)}}}
    SweepCallback().on_multirun_end(OmegaConf.create(config))
    assert f"table: {tmp_path / 'table.md'}" in capsys.readouterr().err
    assert {"sweep.csv", "table.csv", "table.md", "table.png", "table.html"} <= {
        p.name for p in tmp_path.iterdir()
    }


def test_unknown_table_is_rejected_before_the_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        SweepCallback().on_multirun_start(OmegaConf.create({"table": "layer"}))
    assert stopped.value.code == 2
    assert (
        "table=layer is not one of utility, layers, updates, dropout, comparison"
        in capsys.readouterr().err
    )
