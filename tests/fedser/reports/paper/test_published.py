from importlib import resources

import pandas as pd
import pytest

from fedser.reports.paper.published import CORPORA, FEATURES, read_published


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
    figures_of = figures_of[figures_of["features"] == "emobase"]
    assert len(figures_of) == rows
    assert figures_of["uar_fixed"].between(0.49, 0.93).all()
    found = figures_of[(figures_of[list(where)] == pd.Series(where)).all(axis="columns")]
    assert found["uar_fixed"].iloc[0] == pytest.approx(uar)  # the first layer, or one update


def test_published_recognition() -> None:
    found = read_published("utility")
    assert set(found["private_corpus"]) == set(CORPORA)
    assert set(found["features"]) == set(FEATURES)
    place = {"features": "apc", "run": "2022-05", "privacy": "none", "algorithm": "fedavg"}
    rows = found[(found[list(place)] == pd.Series(place)).all(axis="columns")]
    of_corpus = rows.set_index("private_corpus")[["uar", "accuracy"]]
    assert of_corpus.loc["crema_d"].tolist() == pytest.approx([0.6713, 0.7382])
    assert of_corpus.loc["msp_improv"].tolist() == pytest.approx([0.4961, 0.557])


def test_each_published_file_is_explained() -> None:
    folder = resources.files("fedser.reports.paper.published")
    readme = folder.joinpath("README.md").read_text("utf-8")
    files = [path.name for path in folder.iterdir() if path.name.endswith(".csv")]
    assert len(files) == 4
    assert all(f"`{name}`" in readme for name in files)
