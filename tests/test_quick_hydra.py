"""What `quick_hydra` shortens: Hydra finds the same without it."""

from importlib import resources

import hydra
import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra.errors import HydraException
from omegaconf import OmegaConf

from tests import quick_hydra

COMMANDS = [
    [],
    ["corpus=manifest", "privacy=udp_5", "+corpus.columns.other=a", "attack=[statistics,cnn]"],
    ["privacy=udp", "privacy.epsilon=50", "hydra.run.dir=a/b", "seed=3"],
    ["experiment=paper_layers", "corpora=[ravdess,nemo,emodb]", "corpus=emodb"],
    ["model=none of these"],
    ["model.none=1"],
]


def composed(overrides: list[str]) -> str:
    with hydra.initialize_config_module("fedser.conf", version_base="1.3"):
        try:
            found = hydra.compose("config", overrides=overrides, return_hydra_config=True)
        except HydraException as error:
            return str(error)
    return OmegaConf.to_yaml(found)


@pytest.mark.parametrize("overrides", COMMANDS, ids=" ".join)
def test_a_quick_configuration_is_the_same(overrides, monkeypatch):
    quick = [composed(overrides) for _ in range(2)]
    monkeypatch.setattr(OmegaConf, "load", staticmethod(quick_hydra.load))
    monkeypatch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", quick_hydra.merge)
    assert quick == [composed(overrides)] * 2


def test_a_change_of_a_configuration_stays_in_it():
    with hydra.initialize_config_module("fedser.conf", version_base="1.3"):
        hydra.compose("config").model.dropout = 0.123
        assert hydra.compose("config").model.dropout != 0.123


def test_only_experiments_set_a_mode():
    assert Hydra.get_mode is quick_hydra.quick_mode
    root = resources.files("fedser.conf")
    groups = [folder for folder in root.iterdir() if folder.is_dir()]
    for file in (file for folder in [root, *groups] for file in folder.iterdir()):
        if file.name.endswith(".yaml"):
            set_here = yaml.safe_load(file.read_text("utf-8")).get("hydra", {})
            assert "mode" not in set_here or f"experiment/{file.name}" in str(file), file
