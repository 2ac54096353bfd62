"""Run federations on Ray, in this process or over a network."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from fedser.client.corpora.build import build_corpus
from fedser.client.speakers.corpus_data import CorpusData, load_corpus
from fedser.common.cache import cache_folder
from fedser.common.errors import UserError
from fedser.conf.build import build_group
from fedser.conf.schema import AuditConfig, RuntimeConfig, StudyConfig
from fedser.conf.store import register
from fedser.conf.values import refuse_added
from fedser.server.federation.federation import CanaryScores, Federation, Outcome, Protocol
from fedser.server.federation.remote_clients import Roster, read_roster, read_truth
from fedser.server.grids.local import Server, sharing_cores
from fedser.server.grids.side_by_side import run_on
from fedser.server.rounds.audit_batches import OneRun, collect_private
from fedser.server.rounds.audit_noise import Collected, collect
from fedser.server.rounds.audit_path import AuditPath
from fedser.server.rounds.canaries import release_canaries
from fedser.server.rounds.federate import federate
from fedser.server.study.federations import (
    check_config,
    check_frames,
)

if TYPE_CHECKING:  # a second to import, which a simulation need not wait for
    from fedser.server.network.superlink import Network

register()


def study_config(composed: DictConfig) -> StudyConfig:
    """Check a composed configuration and give it types; a single shadow corpus becomes a list.

    Raises
    ------
    UserError
        Naming the key.
    """
    refuse_added(composed)
    if isinstance(composed.shadow, str):
        composed.shadow = [composed.shadow]
    config = OmegaConf.to_object(composed)
    assert isinstance(config, StudyConfig)  # config.yaml starts from the schema
    config.model = build_group("model", config.model)
    check_config(config)
    check_frames(config.model, build_group("features", config.features))
    return config


def load_private(config: StudyConfig) -> CorpusData:
    """Read the private corpus and its features."""
    return read_corpus(config.corpus, config)


def read_corpus(settings: Any, config: StudyConfig) -> CorpusData:
    """Read a corpus as this study needs it: with its features, ages cut at its bounds.

    Parameters
    ----------
    settings : mapping
        Plain or of OmegaConf: the keys of the corpus.
    """
    corpus = build_corpus(settings, config.data_root)
    extractor = build_group("features", config.features)
    return load_corpus(corpus, extractor, cache_folder(config.cache), config.age_bounds)


@contextmanager
def private_corpus(
    config: StudyConfig, folder: Path, nodes: bool
) -> Iterator[tuple[CorpusData | Roster, "Network | None"]]:
    """Read the private corpus, or have real nodes tell what they hold of it.

    Parameters
    ----------
    folder : Path
        Of the run: there it is kept what nodes told.
    nodes : bool
        Whether the network's nodes are needed, or an earlier run's roster will do.
    """
    if config.runtime.name != "network":
        yield load_private(config), None
    elif not nodes:
        yield read_roster(folder), None
    else:
        from fedser.server.network.superlink import network

        with network(config.runtime, folder) as connected:
            yield _roster(config, connected, folder), connected


def _roster(config: StudyConfig, connected: "Network", folder: Path) -> Roster:
    roster, corpus = connected.roster(config.runtime.patience), config.corpus
    wanted = (corpus["name"], corpus["shards"], build_group("features", config.features).key)
    for key, found, right in zip(
        ("corpus.name", "corpus.shards", "features"),
        (roster.name, roster.shards, roster.features),
        wanted,
        strict=True,
    ):
        if found != right:
            raise UserError(f"{key} is {found} at the nodes and {right} here; set both to the same")
    if config.runtime.truth is not None:
        truth = read_truth(Path(config.runtime.truth), roster.name, config.age_bounds)
        roster = replace(roster, truth=truth)
    roster.save(folder)
    return roster


def run_over(connected: "Network", federations: Sequence[Federation]) -> list[Outcome]:
    """Run federations one after another over a network; raises as `federate` does."""
    with sharing_cores():
        return [federate(connected.grid, each, each.folder, "cpu") for each in federations]


def run_federations(federations: Sequence[Federation], runtime: RuntimeConfig) -> list[Outcome]:
    """Run federations side by side; raises as `run_on` does, and as `federate` does."""

    def server(federation: Federation) -> Server[Outcome]:
        return lambda grid, folder, device: federate(grid, federation, folder, device)

    return run_on(runtime, [server(federation) for federation in federations])


@dataclass(frozen=True)
class Audited:
    """What an audit collected: evidence by magnitude, samples for direct tests, and guesses."""

    evidence: list[list[CanaryScores]]
    collected: Collected
    one_run: OneRun | None


def run_canaries(
    protocol: Protocol, dimension: int, audit: AuditConfig, runtime: RuntimeConfig
) -> Audited:
    """Run the audit; raises as `run_on` does."""

    def path(*where: Any) -> AuditPath:
        grid, folder, device = where
        return AuditPath(grid, protocol, dimension, folder, device)

    def sent(magnitude: float) -> Server[list[CanaryScores]]:
        return lambda *where: release_canaries(path(*where), audit, magnitude)

    def direct(*where: Any) -> tuple[Collected, OneRun | None]:
        if protocol.plan.config.spec.noise_at == "batches":
            return collect_private(path(*where))
        return collect(path(*where)), None

    evidence = run_on(runtime, [sent(magnitude) for magnitude in audit.magnitudes])
    ((collected, one_run),) = run_on(runtime, [direct])
    return Audited(evidence, collected, one_run)
