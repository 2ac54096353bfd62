from pathlib import Path

import pytest

from fedser.reports.sweep.read_runs import UNFINISHED
from fedser.reports.sweep.terminal_table import sweep_table
from tests.fedser.reports.sweep.sweeps import OUTSIDER, Results, add_run, read_table, variant, write
from tests.studies import (
    make_verification,
)

pytestmark = pytest.mark.usefixtures("undrawn")


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


def test_attacks_have_columns_at_1_20_and_most_updates(
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
