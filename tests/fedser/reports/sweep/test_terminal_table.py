import io
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from fedser.reports.sweep.read_runs import UNFINISHED
from fedser.reports.sweep.terminal_table import sweep_table
from tests.fedser.reports.sweep.sweeps import OUTSIDER, Results, add_run, write

pytestmark = pytest.mark.usefixtures("undrawn")


def test_sweep_in_which_every_run_failed_leaves_a_table_alone(tmp_path: Path) -> None:
    add_run(tmp_path / "0", ["seed=0"], None)
    add_run(tmp_path / "1", ["seed=1"], None)
    written = write(tmp_path)
    assert len(pd.read_csv(written)) == 2
    assert not (tmp_path / "sweep.png").exists()
    assert f"seed=0, seed=1: {UNFINISHED}" in printed(written)


def printed(path: Path, width: int = 120) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(sweep_table(path))
    return " ".join(console.export_text().split())


def test_printed_table_shows_utility_leakage_and_both_epsilons(sweep_dir: Path) -> None:
    written = write(sweep_dir)
    text = printed(written)
    for row in (
        "run mechanism UAR 1 20 real known nominal unit vantage",
        "none none 60.0 0.930 0.990 a",
        "udp_25 udp 52.0 0.785 0.950 105,307 25 client a",
        "udp_50 central_8",  # failed
        "central_8 central 35.0 0.910 0.960 7.99 24.8 client b",
        "central_1 central 26.0 0.900 0.940 1 client b",
        "a: the server, which sees every update with its sender",
        f"b: {OUTSIDER}",
        f"udp_50: {UNFINISHED}",
    ):
        assert row in text


def test_printed_table_fits_80_columns_with_full_names(sweep_dir: Path) -> None:
    written = write(sweep_dir)
    assert "…" not in printed(written, width=80)
    assert "central_8" in printed(written, width=80)


def test_printed_table_shows_brackets_as_text(tmp_path: Path, results: Results) -> None:
    for number, shadow in enumerate(("[nemo]", "[emodb]")):
        add_run(tmp_path / str(number), [f"shadow={shadow}"], results)
    written = write(tmp_path)
    assert "shadow=[nemo]" in printed(written)
