"""Read the private corpus, and run federations on Ray, in this process or over a network."""

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
from fedser.conf.values import reject_added
from fedser.server.federation.federation import CanaryScores, Federation, Outcome, Protocol
from fedser.server.federation.remote_clients import Roster, read_roster, read_truth
from fedser.server.grids.local import Server, sharing_cores
from fedser.server.grids.side_by_side import run_on
from fedser.server.rounds.audit_batches import OneRun, collect_private
from fedser.server.rounds.audit_noise import Collected, collect
from fedser.server.rounds.audit_path import AuditPath
from fedser.server.rounds.canaries import release_canaries
from fedser.server.rounds.federate import federate
from fedser.server.study.check import check_config, check_frames

if TYPE_CHECKING:  # slow to import, and a simulation does not need it
    from fedser.server.network.roster import Network

register()


def study_config(composed: DictConfig) -> StudyConfig:
    """Check a composed configuration and convert it to `StudyConfig`.

    ``shadow=NAME`` becomes a list of one corpus, and so does ``public=NAME``.

    Raises
    ------
    UserError
        Naming the key.
    """
    reject_added(composed)
    for key in ("public", "shadow"):
        if isinstance(composed[key], str):
            composed[key] = [composed[key]]
    config = OmegaConf.to_object(composed)
    assert isinstance(config, StudyConfig)  # config.yaml starts from the schema
    config.model = build_group("model", config.model)
    check_config(config)
    check_frames(config.model, build_group("features", config.features))
    return config


def read_corpus(settings: Any, config: StudyConfig) -> CorpusData:
    """Read a corpus with the features and the age bounds of this study.

    Parameters
    ----------
    settings : mapping
        Keys of the corpus, as a plain mapping or from OmegaConf.
    """
    corpus = build_corpus(settings, config.data_root)
    extractor = build_group("features", config.features)
    return load_corpus(corpus, extractor, cache_folder(config.cache), config.age_bounds)


@contextmanager
def private_corpus(
    config: StudyConfig, folder: Path, connect: bool
) -> Iterator[tuple[CorpusData | Roster, "Network | None"]]:
    """Read the private corpus, or the roster of the real nodes that hold it.

    Yields the network as well while it is connected.

    Parameters
    ----------
    folder : Path
        The run's folder. The roster is saved there.
    connect : bool
        With ``runtime=network``: True connects to the nodes, False reads the roster that an
        earlier command saved.
    """
    if config.runtime.name != "network":
        yield read_corpus(config.corpus, config), None
    elif not connect:
        yield read_roster(folder), None
    else:
        from fedser.server.network.superlink import network

        with network(config.runtime, folder) as connected:
            yield _ask_roster(config, connected, folder), connected


def _ask_roster(config: StudyConfig, connected: "Network", folder: Path) -> Roster:
    """Ask the nodes for their roster, check it against the configuration and save it."""
    roster, corpus = connected.roster(config.runtime.patience), config.corpus
    features = build_group("features", config.features).key
    for key, on_nodes, here in (
        ("corpus.name", roster.name, corpus["name"]),
        ("corpus.shards", roster.shards, corpus["shards"]),
        ("features", roster.features, features),
    ):
        if on_nodes != here:
            raise UserError(f"{key} is {on_nodes} on the nodes and {here} here: set both alike")
    if config.runtime.truth is not None:
        truth = read_truth(Path(config.runtime.truth), roster.name, config.age_bounds)
        roster = replace(roster, truth=truth)
    roster.save(folder)
    return roster


def run_over_network(connected: "Network", federations: Sequence[Federation]) -> list[Outcome]:
    """Run federations one after another over a network; raises as `federate` does."""
    with sharing_cores():
        return [federate(connected.grid, each, each.folder, "cpu") for each in federations]


def run_federations(federations: Sequence[Federation], runtime: RuntimeConfig) -> list[Outcome]:
    """Run federations side by side; raises as `run_on` and `federate` do."""

    def server(federation: Federation) -> Server[Outcome]:
        return lambda grid, folder, device: federate(grid, federation, folder, device)

    return run_on(runtime, [server(federation) for federation in federations])


@dataclass(frozen=True)
class Audited:
    """All that an audit collects from its canaries.

    Attributes
    ----------
    evidence : list of list of CanaryScores
        Scores of the canaries, one list per magnitude of the configuration.
    collected : Collected
        Samples for the direct tests of noise, clipping and cohorts.
    one_run : OneRun or None
        Membership guesses from one training; only with DP-SGD.
    """

    evidence: list[list[CanaryScores]]
    collected: Collected
    one_run: OneRun | None


def run_canaries(
    protocol: Protocol, dimension: int, audit: AuditConfig, runtime: RuntimeConfig
) -> Audited:
    """Send canaries through the protocol and collect the scores; raises as `run_on` does.

    Parameters
    ----------
    dimension : int
        Number of features.
    """

    def path(grid: Any, folder: Path, device: str) -> AuditPath:
        return AuditPath(grid, protocol, dimension, folder, device)

    def magnitude_server(magnitude: float) -> Server[list[CanaryScores]]:
        return lambda *place: release_canaries(path(*place), audit, magnitude)

    def sample_server(*place: Any) -> tuple[Collected, OneRun | None]:
        if protocol.plan.config.spec.noise_at == "batches":
            return collect_private(path(*place))
        return collect(path(*place)), None

    evidence = run_on(runtime, [magnitude_server(magnitude) for magnitude in audit.magnitudes])
    ((collected, one_run),) = run_on(runtime, [sample_server])
    return Audited(evidence, collected, one_run)
