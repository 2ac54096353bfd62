"""Register with Hydra what has no YAML file in this folder."""

from collections.abc import Callable
from functools import partial

from hydra.core.config_store import ConfigStore
from hydra.utils import get_method
from omegaconf import OmegaConf

from fedser.conf.privacy_points import PRIVACY_POINTS
from fedser.conf.schema import StudyConfig


def register() -> None:
    """Register the schema, the options without a file, and the resolvers for corpora."""
    store = ConfigStore.instance()
    store.store(name="study_schema", node=StudyConfig)
    for name, node in PRIVACY_POINTS.items():
        store.store(group="privacy", name=name, node=node)
    # Resolvers for experiments that attack each corpus in turn.
    resolve = partial(OmegaConf.register_new_resolver, replace=True)
    resolve("corpora_below", _lazily("corpora_below"), use_cache=True)
    resolve("others", _lazily("others"))
    resolve("joined", ",".join)


def _lazily(name: str) -> Callable[..., list[str]]:
    """Return a function that imports the resolver only when it is called."""
    return lambda *given: list(get_method(f"fedser.client.corpora.rotation.{name}")(*given))
