"""Run federations on Ray or in this process; compose configurations with Hydra."""

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Before Flower and Ray are imported: nothing is reported or looked up outside.
for _name, _value in {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "HF_HUB_OFFLINE": "1",
}.items():
    os.environ.setdefault(_name, _value)

import hydra
import yaml
from flwr.serverapp import Grid
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from client.corpora.base import Corpus
from client.errors import UserError
from client.speakers import CorpusData, load_corpus
from conf.privacy_points import PRIVACY_POINTS
from conf.schema import AuditConfig, RuntimeConfig, StudyConfig
from server.app import federate
from server.audit import release_canaries
from server.federation import Evidence, Federation, Outcome, Protocol
from server.grid import Server
from server.runtime import run_on
from server.study import begin_training, check_config, private_federations, write_training

ConfigStore.instance().store(name="study_schema", node=StudyConfig)
for _name, _node in PRIVACY_POINTS.items():
    ConfigStore.instance().store(group="privacy", name=_name, node=_node)


def study_config(composed: DictConfig) -> StudyConfig:
    """Check a composed configuration and give it types.

    Raises
    ------
    UserError
        Naming the key.
    """
    config = OmegaConf.to_object(composed)
    assert isinstance(config, StudyConfig)  # config.yaml starts from the schema
    check_config(config)
    return config


def build(settings: Any) -> Any:
    """Make the dataclass that ``_target_`` names, its fields checked against their types.

    Parameters
    ----------
    settings : mapping
        Plain or of OmegaConf.
    """
    fields = {k: v for k, v in settings.items() if k != "_target_"}
    schema = OmegaConf.structured(get_class(settings["_target_"]))
    OmegaConf.set_readonly(schema, None)  # as it is for a frozen dataclass
    return OmegaConf.to_object(OmegaConf.merge(schema, fields))


def build_group(group: str, settings: Any) -> Any:
    """Make what a group of the configuration describes, as `build` does.

    Raises
    ------
    UserError
        Naming the key, if a value is missing or has not the right type.
    """
    try:
        return build(settings)
    except OmegaConfBaseException as error:
        raise UserError(f"{group}.{error.full_key}: {str(error).splitlines()[0]}") from error


def load_private(config: StudyConfig) -> CorpusData:
    """Read the private corpus and its features."""
    return read_corpus(config.corpus, config)


def read_corpus(settings: Any, config: StudyConfig) -> CorpusData:
    """Read a corpus as this study needs it: with its features, ages cut at its bounds.

    Parameters
    ----------
    settings : mapping
        Plain or of OmegaConf: the keys of the corpus.
    """
    corpus = build_corpus(settings, config.data_root)
    extractor = build_group("features", config.features)
    return load_corpus(corpus, extractor, Path(config.cache), config.age_bounds)


def build_corpus(settings: Any, data_root: str) -> Corpus:
    """Make a corpus, and first the parts of a pooled one.

    Raises
    ------
    UserError
        Naming the key, if a value has not the right type.
    """
    fields = dict(settings)
    if "parts" in fields:
        entries = fields["parts"]
        if not isinstance(entries, Sequence) or isinstance(entries, str):
            raise UserError(f"corpus.parts={entries}: must be a list, such as [ravdess,emodb]")
        named = [named_corpus("corpus.parts", entry, data_root) for entry in entries]
        fields["parts"] = [build_corpus(part, data_root) for part in named]
    corpus: Corpus = build_group("corpus", fields)
    return corpus


def named_corpus(key: str, entry: Any, data_root: str) -> Any:
    """Compose the settings of a corpus that a list names.

    Parameters
    ----------
    key : str
        What the list is called.
    entry : str or mapping
        A name in ``conf/corpus``, or ``{corpus: NAME}`` with keys to change.

    Raises
    ------
    UserError
        If the entry is neither.
    """
    changes = dict(entry) if isinstance(entry, Mapping) else {"corpus": entry}
    if not isinstance(changes.get("corpus"), str):
        raise UserError(f"{key}: {entry} names no corpus; write {{corpus: NAME, KEY: VALUE}}")
    composed = compose([f"corpus={changes.pop('corpus')}"])
    composed.data_root = data_root
    return OmegaConf.merge(composed.corpus, changes)


def run_federations(federations: Sequence[Federation], runtime: RuntimeConfig) -> list[Outcome]:
    """Run federations side by side; raises as `run_on` does, and as `federate` does."""

    def server(federation: Federation) -> Server[Outcome]:
        return lambda grid, folder, device: federate(grid, federation, folder, device)

    return run_on(runtime, [server(federation) for federation in federations])


def run_canaries(
    protocol: Protocol, dimension: int, audit: AuditConfig, runtime: RuntimeConfig
) -> list[list[Evidence]]:
    """Run the audit at each of its magnitudes; raises as `run_on` does."""

    def server(magnitude: float) -> Server[list[Evidence]]:
        return lambda grid, folder, device: release_canaries(
            grid, protocol, dimension, audit, magnitude, folder, device
        )

    return run_on(runtime, [server(magnitude) for magnitude in audit.magnitudes])


def compose(overrides: Sequence[str]) -> DictConfig:
    """Compose ``conf/config.yaml``, within a Hydra application or outside of one."""
    if GlobalHydra.instance().is_initialized():  # it may know of more configuration folders
        return hydra.compose("config", overrides=list(overrides))
    with hydra.initialize_config_module("conf", version_base="1.3"):
        return hydra.compose("config", overrides=list(overrides))


def train_from_overrides(overrides: Sequence[str], folder: Path, grid: Grid) -> None:
    """Train a study's private federations over a grid that somebody else started.

    The folder can then be attacked with ``fedser stage=attack run=FOLDER``.
    """
    started = time.perf_counter()
    composed = compose(overrides)
    config = study_config(composed)
    folder = folder.expanduser().absolute()
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
    (folder / ".hydra" / "config.yaml").write_text(OmegaConf.to_yaml(composed))
    data = load_private(config)
    begin_training(config, folder)
    with tempfile.TemporaryDirectory(prefix="fedser-") as workspace:
        outcomes = [
            federate(grid, f, Path(workspace), "cpu")
            for f in private_federations(config, data, folder)
        ]
    write_training(folder, data, outcomes, config.normalisation, time.perf_counter() - started)
