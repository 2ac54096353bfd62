from importlib import resources
from typing import Any

import pandas as pd
import pytest

from attacks.published import read_published
from attacks.records import differences
from tests.attacks.conftest import make_attack

Results = dict[str, Any]

STUDY = {
    "corpus": {"name": "iemocap"},
    "model": {"dropout": 0.2},
    "features": {"feature_set": "emobase"},
    "normalisation": "speaker",
    "rounds": 200,
}
CNN = {"name": "cnn", "shadow_corpora": ["crema-d", "msp-improv"], "combination": "updates"}


@pytest.mark.parametrize(
    ("config", "attack", "expected"),
    [
        ({}, {}, []),
        ({"corpus": {"name": "ravdess"}}, {}, ["corpus", "shadow"]),
        ({"corpus": {"name": "emodb"}}, {}, ["corpus", "language", "shadow"]),
        ({"corpus": {"name": "mine"}}, {}, ["corpus", "language", "shadow"]),
        ({}, {"shadow_corpora": ["crema-d"]}, ["shadow"]),
        ({}, {"name": "fusion"}, ["attack"]),
        ({}, {"attribute": "age"}, ["attribute"]),
        ({}, {"layer": "last", "aware": True}, ["layer", "aware"]),
        ({}, {"leaked_updates": 5, "combination": "log_odds"}, ["combination"]),
        ({}, {"leaked_updates": 1, "combination": "log_odds"}, []),
        ({}, {"vantage": "aggregate", "selection": "earliest"}, ["vantage", "selection"]),
        ({"attack": {"cnn": {"max_examples": 300}}}, {}, ["examples"]),
        ({"rounds": 50, "normalisation": "corpus"}, {}, ["normalisation", "rounds"]),
        ({"features": {"feature_set": "eGeMAPS"}}, {}, ["features"]),
        ({"model": {"dropout": 0.4}}, {}, ["dropout"]),
    ],
)
def test_differences(config: Results, attack: Results, expected: list[str]) -> None:
    assert differences(STUDY | config, make_attack(**(CNN | attack)), "updates") == expected


def test_what_a_table_varies_is_no_difference() -> None:
    last = make_attack(**CNN, layer="last")
    assert differences(STUDY, last, "layers") == []
    assert differences(STUDY | {"model": {"dropout": 0.6}}, make_attack(**CNN), "dropout") == []


@pytest.mark.parametrize(
    ("table", "rows", "uar", "where"),
    [
        ("layers", 18, 0.8738, {"private_corpus": "iemocap", "algorithm": "fedavg"}),
        ("updates", 75, 0.8255, {"private_corpus": "iemocap", "privacy": "none"}),
        ("updates", 75, 0.5175, {"private_corpus": "iemocap", "privacy": "udp 50"}),
        ("dropout", 18, 0.8321, {"private_corpus": "iemocap", "run": "0e1554a"}),
    ],
)
def test_published_figures(table: str, rows: int, uar: float, where: dict[str, str]) -> None:
    figures_of = read_published(table)
    assert len(figures_of) == rows
    assert figures_of["uar_fixed"].between(0.49, 0.93).all()
    found = figures_of[(figures_of[list(where)] == pd.Series(where)).all(axis="columns")]
    assert found["uar_fixed"].iloc[0] == pytest.approx(uar)  # the first layer, or one update


def test_each_published_file_is_explained() -> None:
    folder = resources.files("attacks.published")
    readme = folder.joinpath("README.md").read_text("utf-8")
    files = [path.name for path in folder.iterdir() if path.name.endswith(".csv")]
    assert len(files) == 3
    assert all(f"`{name}`" in readme for name in files)
