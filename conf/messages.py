"""Errors of Hydra and OmegaConf as one line for the user."""

import re
from collections.abc import Iterable, Sequence
from functools import partial

from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from platformdirs import user_cache_dir

from fedser.common.errors import first_line, nearest
from fedser.common.quoting import pasted
from fedser.conf.overrides import override

KEY = re.compile(r"[\w./@+]+")
AMBIGUOUS = re.compile(r"Ambiguous value for argument '([^=]+)=(.*?)'\n1\. ", re.DOTALL)


def explain(error: HydraException | OmegaConfBaseException) -> str:
    """Return one line that names the bad override and the nearest valid one."""
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read; {_remedy(error.override or '')}"
    if isinstance(error, HydraException) and (found := AMBIGUOUS.match(str(error))):
        key, value = found.groups()
        listed, text = pasted([f"{key}=[{value}]"]), pasted([override(key, value)])
        return f"{key}={value}: has a comma; write {listed}, for one text {text}, or -m for a sweep"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        options = group_options(group)
        hint = nearest(name, options, f"{group}=") or f"; choose one of {', '.join(options)}"
        return f"{group}={name}: no such option{hint}"
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
        found = cause.parent_node
        return no_such_key(str(cause.full_key), found if isinstance(found, DictConfig) else [])
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return f"{cause.full_key}: {first_line(cause)}"
    return first_line(error)


def _remedy(argument: str) -> str:
    """Return how to write an override that Hydra cannot read."""
    key, equals, value = argument.partition("=")
    if equals and KEY.fullmatch(key) and not value.startswith(("[", "{", "'", '"')):
        return f"if it is a text, write {pasted([override(key, value)])}"
    if other := next((word for word in re.findall(r"\w+", value) if not word.isascii()), None):
        return f"put text with letters outside of ASCII into quotes: {other!r}"
    return "write KEY=VALUE, in quotes if it has brackets or spaces"


def no_such_key(key: str, beside: Iterable[object]) -> str:
    """Return one line that names an unknown key and the nearest known key."""
    above, dot, name = key.rpartition(".")
    hint = nearest(name, [str(other) for other in beside], above + dot)
    return f"{key}: no such key{hint or '; fedser --help lists all'}"


def group_options(group: str) -> Sequence[str]:
    """Return the names of all options of a configuration group."""
    if not GlobalHydra.instance().is_initialized():
        with initialize_config_module("fedser.conf", version_base="1.3"):
            return group_options(group)
    return GlobalHydra.instance().config_loader().get_group_options(group, ObjectType.CONFIG)


# ${user_cache:} of config.yaml: the cache folder of the user on this system.
_user_cache = partial(user_cache_dir, "fedser", appauthor=False)
OmegaConf.register_new_resolver("user_cache", _user_cache, replace=True)
