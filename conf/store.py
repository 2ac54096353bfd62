"""What Hydra composes a study from besides the files of this folder."""

from collections.abc import Callable
from functools import partial

from hydra.core.config_store import ConfigStore
from hydra.utils import get_method
from omegaconf import OmegaConf

from fedser.conf.privacy_points import PRIVACY_POINTS
from fedser.conf.schema import StudyConfig


def register() -> None:
    """Tell Hydra of the schema, of options without a file, and how corpora take turns."""
    store = ConfigStore.instance()
    store.store(name="study_schema", node=StudyConfig)
    for name, node in PRIVACY_POINTS.items():
        store.store(group="privacy", name=name, node=node)
    # What experiments that take corpora in turn are written with.
    resolve = partial(OmegaConf.register_new_resolver, replace=True)
    resolve("corpora_below", _lazily("corpora_below"), use_cache=True)
    resolve("others", _lazily("others"))
    resolve("joined", ",".join)


def _lazily(name: str) -> Callable[..., list[str]]:
    """Return a function that is imported when it is first called."""
    return lambda *given: list(get_method(f"fedser.client.corpora.rotation.{name}")(*given))
