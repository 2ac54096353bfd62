"""Make what the configuration describes."""

from collections.abc import Sequence
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fedser.common.errors import UserError


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


def compose(overrides: Sequence[str], name: str = "config") -> DictConfig:
    """Compose ``conf/NAME.yaml``, within a Hydra application or outside of one."""
    if GlobalHydra.instance().is_initialized():  # it may know of more configuration folders
        return hydra.compose(name, overrides=list(overrides))
    with hydra.initialize_config_module("fedser.conf", version_base="1.3"):
        return hydra.compose(name, overrides=list(overrides))
