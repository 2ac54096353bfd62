from importlib import resources

import hydra
import pytest
import yaml
from hydra import initialize_config_module

from fedser.conf.build import compose
from fedser.conf.privacy_points import PRIVACY_POINTS
from fedser.server.study.run import study_config

UDP = [name for name in PRIVACY_POINTS if name.startswith("udp_")]
EXPERIMENTS = {
    "leakage_by_layer": ("layers", {"algorithm": ["fedavg", "fedsgd"]}),
    "leakage_by_updates": ("updates", {"privacy": ["none", *UDP]}),
    "leakage_by_dropout": (
        "dropout",
        {"model.dropout": ["0.2", "0.4", "0.6"], "algorithm": ["fedavg", "fedsgd"]},
    ),
    "attack_comparison": ("comparison", {"privacy": ["none", "udp_50", "udp_25", "udp_10"]}),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_sweeps_the_keys_of_its_table(name: str) -> None:
    text = resources.files("fedser.conf").joinpath("experiment", f"{name}.yaml").read_text("utf-8")
    experiment = yaml.safe_load(text)
    table, swept = EXPERIMENTS[name]
    assert experiment["table"] == table
    assert experiment["hydra"]["mode"] == "MULTIRUN"
    params = experiment["hydra"]["sweeper"]["params"]
    assert {key: str(values).split(",") for key, values in params.items()} == swept
    assert experiment["shadow"] == ["ravdess", "emodb"]


PAPER = {
    "paper_utility": ("utility", "train", {"privacy": 5}, "emodb-emobase-udp_5"),
    "paper_leakage": ("updates", "all", {"privacy": 5}, "emodb-emobase-udp_5"),
    "paper_layers": ("layers", "all", {"algorithm": 2}, "emodb-emobase-fedsgd"),
    "paper_dropout": (
        "dropout",
        "all",
        {"model.dropout": 3, "algorithm": 2},
        "emodb-emobase-fedsgd-0.6",
    ),
}


@pytest.mark.parametrize("name", PAPER)
def test_a_paper_experiment_takes_each_corpus_in_turn(name: str) -> None:
    table, stage, swept, folder = PAPER[name]
    last = {"privacy": "udp_5", "algorithm": "fedsgd", "model.dropout": "0.6"}
    point = [f"{key}={last[key]}" for key in swept]
    with initialize_config_module("fedser.conf", version_base="1.3"):
        chosen = [f"experiment={name}", "corpora=[ravdess,nemo,emodb]", "corpus=emodb", *point]
        composed = hydra.compose("config", overrides=chosen, return_hydra_config=True)
    params = composed.hydra.sweeper.params
    counts = {key: len(str(values).split(",")) for key, values in params.items()}
    assert counts == {"features": 1, "corpus": 3, **swept}
    assert params.corpus == "ravdess,nemo,emodb"
    sweep = composed.hydra.sweep
    assert (sweep.dir, sweep.subdir) == (f"multirun/{name}", folder)
    assert composed.hydra.mode.name == "MULTIRUN"
    assert (composed.table, composed.stage) == (table, stage)
    assert composed.shadow == ["ravdess", "nemo"]
    assert composed.folds == [0, 1, 2, 3, 4] and composed.rounds == 200
    config = study_config(compose([*chosen, "attack=[statistics,correlation]"]))
    assert list(config.attack) == ["statistics", "correlation"] and not config.keep_transcript


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_may_run_on_another_corpus(name: str) -> None:
    config = study_config(compose([f"experiment={name}", "corpus=emodb", "shadow=[nemo]"]))
    assert (config.corpus["name"], config.shadow) == ("emodb", ["nemo"])
    assert config.table == EXPERIMENTS[name][0]
    assert not config.keep_transcript
