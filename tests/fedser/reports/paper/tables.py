import copy
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from rich.console import Console

from fedser.reports.paper.table_report import write_table
from fedser.results.files import write_results
from tests.studies import make_attack

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
