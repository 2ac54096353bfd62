"""A shortened study on real speech, compared with its known results."""

import sys

import pytest

from fedser.cli.main import main
from fedser.results.files import read_results

pytestmark = pytest.mark.corpora


def test_correlation_infers_gender_and_statistics_does_not(
    data_root, tmp_path_factory, monkeypatch
):
    folder = tmp_path_factory.mktemp("nemo")
    arguments = [
        "corpus=nemo",
        "shadow=[emodb]",
        "runtime=local",
        "rounds=30",
        "cohort_fraction=0.2",
        "folds=[0,1]",
        "adversary.shadow_federations=2",
        "adversary.leaked_updates=[1,all]",
        f"data_root={data_root}",
        f"cache={folder / 'cache'}",
        f"hydra.run.dir={folder / 'run'}",
    ]
    monkeypatch.setattr(sys, "argv", ["fedser", *arguments])
    main()
    results = read_results(folder / "run" / "results.json")
    assert (results["speakers"], results["clients"]) == (9, 45)
    assert results["corpus"]["utterances"] == 1542
    # chance is 0.25, and a full run with 200 rounds reaches 0.65
    assert 0.45 < results["utility"]["uar"] < 0.75
    auc = {(a["name"], a["leaked_updates"]): a["auc"] for a in results["attacks"]}
    assert auc["correlation", 1] > 0.85
    assert auc["correlation", "all"] > 0.9
    assert auc["statistics", "all"] < 0.75  # per-speaker normalisation hides first order
