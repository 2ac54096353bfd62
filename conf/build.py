"""Build objects from the configuration."""

from collections.abc import Sequence
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedser.common.errors import UserError


def build(settings: Any) -> Any:
    """Build the dataclass that ``_target_`` names and check the types of its fields.

    Parameters
    ----------
    settings : mapping
        A plain mapping, or one of OmegaConf.
    """
    fields = {k: v for k, v in settings.items() if k != "_target_"}
    schema = OmegaConf.structured(get_class(settings["_target_"]))
    OmegaConf.set_readonly(schema, None)  # a frozen dataclass would make it read-only
    return OmegaConf.to_object(OmegaConf.merge(schema, fields))


def build_group(group: str, settings: Any) -> Any:
    """Build the object of a configuration group, as `build` does.

    Raises
    ------
    UserError
        Naming the key, if a value is missing or has the wrong type.
    """
    try:
        return build(settings)
    except OmegaConfBaseException as error:
        raise UserError(f"{group}.{error.full_key}: {str(error).splitlines()[0]}") from error


def compose(overrides: Sequence[str], name: str = "config") -> DictConfig:
    """Compose ``conf/NAME.yaml``, inside or outside of a Hydra application."""
    if GlobalHydra.instance().is_initialized():  # it may have more configuration folders
        return hydra.compose(name, overrides=list(overrides))
    with hydra.initialize_config_module("fedser.conf", version_base="1.3"):
        return hydra.compose(name, overrides=list(overrides))
