"""Reject a configuration that no study can run, before any data is read."""

from fedser.client.features.base import Extractor
from fedser.client.holdings import NORMALISATIONS
from fedser.client.models.base import ModelConfig
from fedser.client.training.engine import ENGINES
from fedser.common.errors import UserError, check_choice
from fedser.conf.schema import StudyConfig
from fedser.conf.values import check_values
from fedser.server.study.federations import parameter_names, protocol
from fedser.server.transcript.transcript import choose_layers


def check_config(config: StudyConfig) -> None:
    """Reject values that have the right type and cannot be used.

    Raises
    ------
    UserError
        Naming the key.
    """
    check_values(config)
    if config.runtime.name == "network":
        _check_network(config)
    check_choice("training.engine", config.training.engine, ENGINES)
    if not 0 <= config.model.dropout < 1:
        raise UserError(f"model.dropout={config.model.dropout} must be at least 0 and less than 1")
    check_choice("transcript.store", config.transcript.store, ("updates", "features"))
    check_choice("transcript.dtype", config.transcript.dtype, ("float16", "float32"))
    _check_public(config)
    choose_layers(config.transcript.layers, parameter_names(config), "transcript.layers")
    protocol(config, config.privacy)  # rejects a privacy mechanism that cannot be applied


def _check_public(config: StudyConfig) -> None:
    """Reject public speech that nothing learns from, and a model that lacks it."""
    reads = config.model.components is not None
    if reads and not config.public:
        raise UserError(
            f"model={config.model.name} reads coordinates that are learned from public speech: set "
            "public to a list of corpora"
        )
    if config.public and not reads:
        raise UserError(
            f"public is set, but model={config.model.name} learns nothing from public speech: "
            "leave it out, or set model=linear or model=adapter"
        )
    if config.algorithm.server_learning_rate is None and not (
        reads and config.algorithm.name == "fedsgd"
    ):
        raise UserError(
            "algorithm.server_learning_rate=null needs algorithm=fedsgd and model=linear or "
            "model=adapter; otherwise set a number"
        )


def _check_network(config: StudyConfig) -> None:
    """Reject settings that need more of real nodes than they do."""
    if config.normalisation not in NORMALISATIONS:
        raise UserError(
            f"normalisation={config.normalisation} needs the features of all nodes in one place, "
            "and features do not leave a node: with runtime=network choose "
            f"{' or '.join(NORMALISATIONS)}"
        )
    if config.privacy.custom is not None:
        raise UserError(
            "privacy.mechanism=custom: real nodes apply only the mechanisms of fedser itself; "
            "choose another mechanism, or another runtime"
        )


def check_frames(model: ModelConfig, extractor: Extractor) -> None:
    """Reject a model that cannot read the features.

    Raises
    ------
    UserError
        Naming the keys of the model and of the features.
    """
    if model.reads_frames and extractor.frames is None:
        raise UserError(
            f"model={model.name} reads frames, but these features are one vector per utterance: "
            "set features=logmel, or features=huggingface with features.frames=N, or model=mlp"
        )
    if not model.reads_frames and extractor.frames is not None:
        raise UserError(
            f"model={model.name} reads one vector per utterance, but features.frames="
            f"{extractor.frames} gives frames: set model=attention, or other features"
        )
