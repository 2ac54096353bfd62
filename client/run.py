"""The console command ``fedser-node``: a real client; and corpora from configurations."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from client.cache import cache_folder
from client.command import explain
from client.corpora.base import Corpus
from client.environment import keep_quiet
from client.errors import BAD_INPUT, SUSPENDED, Suspended, UserError, os_problem
from client.hosting import Holdings
from client.quoting import home_expanded, visible
from client.speakers import load_corpus


def main() -> None:
    """Run the command line: an error that a user can mend ends in one line."""
    keep_quiet()
    sys.argv[1:] = home_expanded(sys.argv[1:])
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let Hydra's errors reach this function
    try:
        _hydra_main()
    except UserError as error:
        line, status = str(error), SUSPENDED if isinstance(error, Suspended) else BAD_INPUT
    except (HydraException, OmegaConfBaseException) as error:
        line, status = explain(error), BAD_INPUT
    except OSError as error:
        line, status = os_problem(error), SUSPENDED
    else:
        return
    print(f"fedser-node: {visible(line)}", file=sys.stderr)
    sys.exit(status)


@hydra.main(config_path="pkg://conf", config_name="node", version_base="1.3")
def _hydra_main(composed: DictConfig) -> None:
    from client.node import NodeConfig, serve  # not where only corpora are composed

    settings = build({"_target_": "client.node.NodeConfig", **composed.node})
    assert isinstance(settings, NodeConfig)
    corpus = build_corpus(composed.corpus, composed.data_root)
    extractor = build_group("features", composed.features)
    data = load_corpus(corpus, extractor, cache_folder(composed.cache))
    serve(settings, Holdings(data, extractor.key))


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
    if "emotions" in fields:
        fields["emotions"] = _renamed(fields["emotions"])
    corpus: Corpus = build_group("corpus", fields)
    return corpus


def _renamed(given: Any) -> dict[str, str | None]:
    """Return what to call emotions; pairs serve names that no key can be, such as ``joy/fun``."""
    if given is None or isinstance(given, Mapping):
        return dict(given or {})
    try:
        return {str(name): emotion for name, emotion in given}
    except (TypeError, ValueError):
        raise UserError(
            f"corpus.emotions={given}: write {{NAME: EMOTION}}, or pairs [[NAME, EMOTION]]"
        ) from None


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
    composed = compose("node", [f"corpus={changes.pop('corpus')}"])
    composed.data_root = data_root
    return OmegaConf.merge(composed.corpus, changes)


def compose(name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose ``conf/NAME.yaml``, within a Hydra application or outside of one."""
    if GlobalHydra.instance().is_initialized():  # it may know of more configuration folders
        return hydra.compose(name, overrides=list(overrides))
    with hydra.initialize_config_module("conf", version_base="1.3"):
        return hydra.compose(name, overrides=list(overrides))


if __name__ == "__main__":
    main()
