"""Hydra composes configurations in less time, with the same result.

Tests run many commands in one process. For each of them, Hydra would read and merge the same files,
and would compose the configuration twice, the first time only to read `hydra.mode`.
"""

import copy
import functools
import io
import re
import sys
from collections.abc import Iterator
from typing import Any

import hydra.version
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from omegaconf import OmegaConf

MAY_SET_A_MODE = re.compile(r"hydra(?!\.run\.dir=)|experiment|--config")
"""Arguments that can set `hydra.mode`: no file of `conf/` outside of `experiment/` sets it."""

get_mode, load = Hydra.get_mode, OmegaConf.load
merge = ConfigLoaderImpl._compose_config_from_defaults_list
merged: dict[str, Any] = {}


def quick_mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
    if any(map(MAY_SET_A_MODE.search, [*sys.argv[1:], *overrides])):
        return get_mode(self, config_name, overrides)
    return None


@functools.cache
def parsed(text: str) -> Any:
    return load(io.StringIO(text))


def quick_load(file: Any) -> Any:
    return copy.deepcopy(parsed(file.read())) if hasattr(file, "read") else load(file)


def quick_merge(self: ConfigLoaderImpl, defaults: list[Any], repo: Any) -> Any:
    sources = [(source.scheme(), source.path) for source in repo.get_sources()]
    if any(scheme == "file" for scheme, _ in sources):  # a test writes such a file
        return merge(self, defaults, repo)
    key = repr((defaults, sources))
    if key not in merged:
        merged[key] = merge(self, defaults, repo)
    return copy.deepcopy(merged[key])


def quicken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Hydra, "get_mode", quick_mode)
    patch.setattr(OmegaConf, "load", staticmethod(quick_load))
    patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", quick_merge)
    patch.setattr(hydra.version, "_get_version", functools.cache(hydra.version._get_version))


@pytest.fixture(autouse=True, scope="session")
def quick_hydra() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        yield
