"""The whole chain on real speech: a shortened run of the protocol, with its known outcome."""

import sys

import pytest

from fedser.cli.main import main
from fedser.results.files import read_results

pytestmark = pytest.mark.corpora


def test_the_correlation_attack_reads_gender_where_statistics_do_not(
    data_root, tmp_path_factory, monkeypatch
):
    folder = tmp_path_factory.mktemp("nemo")
    arguments = [
        "corpus=nemo",
        "shadow=[ravdess,emodb]",
        "runtime=local",
        "rounds=30",
        "cohort_fraction=0.2",
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
    # far from chance (0.25) and from the full run (0.65), which has 200 rounds
    assert 0.45 < results["utility"]["uar"] < 0.75
    auc = {(a["name"], a["leaked_updates"]): a["auc"] for a in results["attacks"]}
    assert auc["correlation", 1] > 0.85
    assert auc["correlation", "all"] > 0.9
    assert auc["statistics", "all"] < 0.75  # per-speaker normalisation hides first order
