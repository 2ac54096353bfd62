import copy
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
import yaml
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from omegaconf import OmegaConf
from rich.console import Console

from fedser.cli.sweep_callback import SweepTable
from fedser.reports import figures
from fedser.reports.paper import published
from fedser.reports.paper.layouts import LAYOUTS
from fedser.reports.paper.table_figure import GREY
from fedser.reports.paper.table_report import write_table
from fedser.results.files import write_results
from tests.studies import legend_of_bare_figure, make_attack, points

Results = dict[str, Any]
Attacks = list[dict[str, Any]]

SHADOWS = ["ravdess", "emodb"]
LAYERS = ("first", "second", "last", "all")


def make_config(**overrides: Any) -> dict[str, Any]:
    """The part of a run's configuration that tables read."""
    mechanism, _, epsilon = str(overrides.get("privacy", "none")).partition("_")
    return {
        "corpus": {"name": overrides.get("corpus", "nemo")},
        "algorithm": {"name": overrides.get("algorithm", "fedavg")},
        "model": {"dropout": float(overrides.get("model.dropout", 0.2))},
        "privacy": {"mechanism": mechanism, "epsilon": float(epsilon) if epsilon else None},
        "features": {"feature_set": overrides.get("features", "emobase")},
        "normalisation": "speaker",
        "rounds": 200,
        "folds": [0, 1, 2, 3, 4],
    }


def scored(auc: float | None, **changes: Any) -> dict[str, Any]:
    """An attack record whose figures follow from its AUC."""
    found = {
        "auc": auc,
        "ci95_auc": None if auc is None else [auc - 0.05, auc + 0.04],
        "uar_calibrated": None if auc is None else auc - 0.1,
        "uar_fixed": None if auc is None else 0.51,
        "classes": ["female", "male"],
        "across": None,
        "eer": None,
        "ci95_eer": None,
        "vantage": "attributed",
        "selection": "random",
        "combination": "updates",
        "shadow_corpora": SHADOWS,
        "victims": 45,
        "speakers": 9,
    }
    return make_attack(**(found | changes))


AddRun = Callable[[dict[str, Any], Attacks | str], None]


@pytest.fixture
def add_run(tmp_path: Path, results: Results) -> AddRun:
    """Add a run to the sweep: its overrides, and its attacks or why it failed."""

    def add(overrides: dict[str, Any], attacks: Attacks | str) -> None:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        hydra, config = folder / ".hydra", make_config(**overrides)
        hydra.mkdir(parents=True)
        lines = [f"{key}={value}" for key, value in overrides.items()]
        (hydra / "overrides.yaml").write_text(yaml.safe_dump(["experiment=made_up", *lines]))
        (hydra / "config.yaml").write_text(yaml.safe_dump(config))
        if isinstance(attacks, str):
            (folder / "problem.txt").write_text(attacks)
        else:
            changed = copy.deepcopy(results) | {"config": config, "attacks": attacks}
            write_results(folder / "results.json", changed)

    return add


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures as they are saved."""
    kept: list[Figure] = []
    monkeypatch.setattr(figures, "save_png", lambda figure, path: kept.append(figure))
    return kept


def by_layer(base: float, layers: Iterable[str] = LAYERS) -> Attacks:
    return [scored(round(base - 0.1 * n, 3), layer=layer) for n, layer in enumerate(layers)]


def by_updates(base: float, counts: Sequence[int | str], **changes: Any) -> Attacks:
    return [
        scored(round(base + 0.02 * n, 3), leaked_updates=leaked, **changes)
        for n, leaked in enumerate(counts)
    ]


def table_of(folder: Path, table: str) -> tuple[pd.DataFrame, list[str]]:
    """The Markdown table as texts, and its footnotes."""
    assert write_table(folder, table) is not None
    lines = (folder / "table.md").read_text("utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    notes = [line.removeprefix("- ") for line in lines if line.startswith("- ")]
    return pd.DataFrame(rows[2:], columns=rows[0]), notes


def row_of(grid: pd.DataFrame, **where: str) -> dict[str, str]:
    """The one row that shows these texts; underscores stand for spaces."""
    named = {key.replace("_", " "): value for key, value in where.items()}
    (row,) = [r for r in grid.to_dict("records") if named.items() <= r.items()]
    return {str(key): value for key, value in row.items()}


def printed(folder: Path, table: str, width: int = 120) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(write_table(folder, table, width))
    return console.export_text()


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


def test_a_single_run_is_a_table_too(tmp_path: Path, add_run: AddRun) -> None:
    add_run({"algorithm": "fedavg"}, by_layer(0.9, ["first"]))
    grid, _ = table_of(tmp_path, "layers")
    assert set(grid["algorithm"]) == {"fedavg"}  # nothing of the study's FedSGD
    assert len(grid) == 3 + 3
    assert (tmp_path / "table.png").stat().st_size > 5000


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


def test_where_every_run_failed_the_reasons_are_left(tmp_path: Path, add_run: AddRun) -> None:
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


def test_features_that_the_study_has_stand_beside_its_own(tmp_path: Path, add_run: AddRun) -> None:
    add_run({"features": "tera"}, by_updates(0.9, [1, "all"]))
    add_run({"features": "emobase"}, by_updates(0.8, [1, "all"]))
    grid, notes = table_of(tmp_path, "updates")
    assert set(grid.loc[grid["attack"] == "published", "features"]) == {"emobase", "tera"}
    ours = row_of(grid, features="tera", attack="correlation", metric="UAR fixed (%)")
    assert "features" not in ours["differs from the study in"].split(", ")
    assert any(note.endswith("features emobase, tera.") for note in notes)


def test_features_that_the_study_has_not_stand_beside_emobase(
    tmp_path: Path, add_run: AddRun
) -> None:
    add_run({"features": "eGeMAPSv02"}, by_updates(0.9, [1, "all"]))
    grid, _ = table_of(tmp_path, "updates")
    assert set(grid["features"]) == {"emobase", "eGeMAPSv02"}
    assert "features" in row_of(grid, features="eGeMAPSv02", metric="AUC")[grid.columns[-1]]


def test_page_holds_the_table_the_figure_and_why_they_differ(
    tmp_path: Path, add_run: AddRun
) -> None:
    for algorithm in ("fedavg", "fedsgd"):
        add_run({"algorithm": algorithm, "seed": "<b>"}, by_layer(0.9))
    (tmp_path / "0" / "report.html").touch()
    write_table(tmp_path, "layers")
    page = (tmp_path / "table.html").read_text("utf-8")
    body = ElementTree.fromstring(
        "<table>" + re.search(r"<tbody>.*?</tbody>", page, re.DOTALL)[0] + "</table>"  # type: ignore[index]
    )
    # An interval stands below its figure.
    rows = [
        ["".join(cell.itertext()).replace("\n(", " (") for cell in row] for row in body.iter("tr")
    ]
    grid, notes = table_of(tmp_path, "layers")
    assert rows == grid.to_numpy().tolist()
    theirs = [row for row in body.iter("tr") if "theirs" in str(row.get("class"))]
    assert len(theirs) == 6 and all(row[2].text == "published" for row in theirs)
    assert page.count("<svg") == 1 and 'href="0/report.html"' in page
    assert "the study&#39;s corpora are English" in page
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", page)


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
    assert any("hundred leaked updates" in note for note in notes)
    shared = "features emobase, algorithm fedavg, dropout 0.2, layer first, selection random"
    assert f"In every row of ours: {shared}, combination updates, vantage attributed." in notes


def test_dropout_stands_beside_both_versions_of_the_authors_files(
    tmp_path: Path, add_run: AddRun
) -> None:
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


def test_what_else_is_swept_names_the_run(tmp_path: Path, add_run: AddRun) -> None:
    for seed in (0, 1):
        add_run({"algorithm": "fedavg", "seed": seed}, by_layer(0.8 + seed / 10))
    grid, _ = table_of(tmp_path, "layers")
    aucs = grid[grid["metric"] == "AUC"]
    assert dict(zip(aucs["run"], aucs["first"], strict=True)) == {
        "seed=0": "0.800 (0.750–0.840)",
        "seed=1": "0.900 (0.850–0.940)",
    }


def test_recognising_speakers_again_is_left_to_the_report(tmp_path: Path, add_run: AddRun) -> None:
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


def compared(aucs: Mapping[str, float | None], leaked: int | str = 1) -> Attacks:
    return [scored(auc, name=name, leaked_updates=leaked) for name, auc in aucs.items()]


@pytest.fixture
def comparison_dir(tmp_path: Path, add_run: AddRun) -> Path:
    """Ours wins without a mechanism, and loses to the CNN under UDP at one update."""
    ours = {"statistics": 0.6, "cnn": 0.7, "fusion": 0.92, "correlation": 0.9}
    add_run({"privacy": "none"}, compared(ours) + compared(ours, "all"))
    close = {"statistics": 0.55, "cnn": 0.66, "fusion": 0.6, "correlation": 0.64}
    add_run({"privacy": "udp_50"}, compared(close) + compared(close | {"cnn": None}, "all"))
    return tmp_path


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
    summary = "By AUC ours is below cnn at 1 of 3 points: privacy udp 50, leaked updates 1 (−0.020)"
    assert f"{summary}." in notes
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


@pytest.mark.parametrize("width", [72, 80, 100, 140])
def test_printed_table_loses_nothing_in_a_narrow_terminal(comparison_dir: Path, width: int) -> None:
    text = printed(comparison_dir, "comparison", width)
    assert max(map(len, text.splitlines())) <= width
    squeezed = "".join(text.split())
    for expected in ("0.920", "82.0", "fusion", "−0.020,", "acorpus:", "emetric:"):
        assert expected in squeezed
    assert ("Intervals are in the file" in text) == (".87–.96" not in text)


def test_printed_table_shows_intervals_where_there_is_room(comparison_dir: Path) -> None:
    assert ".87–.96" in printed(comparison_dir, "comparison", 120)


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


def test_sweep_ends_in_its_table(
    tmp_path: Path, add_run: AddRun, capsys: pytest.CaptureFixture[str]
) -> None:
    add_run({"algorithm": "fedavg"}, by_layer(0.9))
    config = {"table": "layers", "hydra": {"sweep": {"dir": str(tmp_path)}}}
    SweepTable().on_multirun_end(OmegaConf.create(config))
    assert f"table: {tmp_path / 'table.md'}" in capsys.readouterr().err
    assert {"sweep.csv", "table.csv", "table.md", "table.png", "table.html"} <= {
        p.name for p in tmp_path.iterdir()
    }


def test_a_table_that_does_not_exist_is_refused_before_the_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        SweepTable().on_multirun_start(OmegaConf.create({"table": "layer"}))
    assert stopped.value.code == 2
    assert (
        "table=layer is not one of utility, layers, updates, dropout, comparison"
        in capsys.readouterr().err
    )
