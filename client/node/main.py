"""The console command ``fedser-node``: run a real client with the corpus of its configuration."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fedser.client.corpora.build import build_corpus
from fedser.common.cache import cache_folder
from fedser.common.environment import keep_quiet
from fedser.common.errors import BAD_INPUT, SUSPENDED, Suspended, UserError, os_problem
from fedser.common.quoting import visible
from fedser.conf.build import build, build_group
from fedser.conf.messages import explain
from fedser.conf.overrides import home_expanded


def main() -> None:
    """Run the command line; an error that the user can correct is printed as one line."""
    keep_quiet()
    if explaining := "--explain" in sys.argv:
        sys.argv.remove("--explain")
    sys.argv[1:] = home_expanded(sys.argv[1:])
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # otherwise Hydra prints its errors itself
    with _one_line():
        _explain_main() if explaining else _hydra_main()


@contextmanager
def _one_line() -> Iterator[None]:
    """End the process with one line for an error that the user can correct.

    If such an error left a function of Hydra, Hydra would print a second line.
    """
    try:
        yield
        return
    except UserError as error:
        line, status = str(error), SUSPENDED if isinstance(error, Suspended) else BAD_INPUT
    except (HydraException, OmegaConfBaseException) as error:
        line, status = explain(error), BAD_INPUT
    except OSError as error:
        line, status = os_problem(error), SUSPENDED
    print(f"fedser-node: {visible(line)}", file=sys.stderr)
    sys.exit(status)


@hydra.main(config_path="pkg://fedser.conf", config_name="node", version_base="1.3")
def _hydra_main(composed: DictConfig) -> None:
    with _one_line():
        _run(composed)


def _run(composed: DictConfig) -> None:
    # Imported here: PyTorch and Flower are slow to import, and --help does not need them.
    from fedser.client.holdings import Holdings
    from fedser.client.node.supernode import NodeConfig, serve
    from fedser.client.speakers.corpus_data import load_corpus

    settings = build({"_target_": "fedser.client.node.supernode.NodeConfig", **composed.node})
    assert isinstance(settings, NodeConfig)
    corpus = build_corpus(composed.corpus, composed.data_root)
    extractor = build_group("features", composed.features)
    data = load_corpus(corpus, extractor, cache_folder(composed.cache))
    serve(settings, Holdings(data, extractor.key))


@hydra.main(config_path="pkg://fedser.conf", config_name="node", version_base="1.3")
def _explain_main(composed: DictConfig) -> None:
    """Print the policy in words."""
    from fedser.client.node.policy import NodePolicy

    with _one_line():
        file = composed.node.policy
        print(NodePolicy.load(None if file is None else Path(file)).explain())


if __name__ == "__main__":
    main()
