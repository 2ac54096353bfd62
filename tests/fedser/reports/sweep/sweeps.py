import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from fedser.reports.sweep.find_runs import runs_below
from fedser.reports.sweep.sweep_report import write_sweep
from fedser.results.files import write_results
from tests.studies import (
    make_attack,
)

Results = dict[str, Any]


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
