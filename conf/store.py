"""What Hydra composes a study from besides the files of this folder."""

from collections.abc import Sequence
from functools import partial

from hydra.core.config_store import ConfigStore
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
    resolve("corpora_below", _corpora_below, use_cache=True)
    resolve("others", _others)
    resolve("joined", ",".join)


# Slow to import: not for help and completion.
def _corpora_below(data_root: str) -> list[str]:
    from fedser.client.corpora.rotation import corpora_below

    return corpora_below(data_root)


def _others(corpora: Sequence[str], private: str) -> list[str]:
    from fedser.client.corpora.rotation import others

    return others(corpora, private)
