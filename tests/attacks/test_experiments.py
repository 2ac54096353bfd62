from importlib import resources

import pytest
import yaml

from conf.privacy_points import PRIVACY_POINTS
from server.run import compose, study_config

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
def test_experiment_sweeps_what_its_table_shows(name: str) -> None:
    text = resources.files("conf").joinpath("experiment", f"{name}.yaml").read_text("utf-8")
    experiment = yaml.safe_load(text)
    table, swept = EXPERIMENTS[name]
    assert experiment["table"] == table
    assert experiment["hydra"]["mode"] == "MULTIRUN"
    params = experiment["hydra"]["sweeper"]["params"]
    assert {key: str(values).split(",") for key, values in params.items()} == swept
    assert experiment["shadow"] == ["ravdess", "emodb"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_is_a_study_that_may_run_on_another_corpus(name: str) -> None:
    config = study_config(compose([f"experiment={name}", "corpus=emodb", "shadow=[nemo]"]))
    assert (config.corpus["name"], config.shadow) == ("emodb", ["nemo"])
    assert config.table == EXPERIMENTS[name][0]
    assert not config.keep_transcript
