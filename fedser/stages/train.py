"""The stage that trains the private federations."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedser.client.speakers.corpus_data import CorpusData
from fedser.conf.schema import StudyConfig
from fedser.loggers.base import RunLog
from fedser.server.federation.federation import Federation
from fedser.server.federation.remote_clients import Roster
from fedser.server.study.files import write_training
from fedser.server.study.run import (
    run_federations,
    run_over,
)

if TYPE_CHECKING:
    from fedser.server.network.superlink import Network


def train(
    config: StudyConfig,
    data: CorpusData | Roster,
    federations: Sequence[Federation],
    folder: Path,
    nodes: "Network | None",
    log: RunLog,
) -> None:
    """Train the private federations, here or at the nodes, and write what training leaves.

    Parameters
    ----------
    nodes : Network, optional
        The network of real clients.
    """
    started = time.perf_counter()
    log.begin(anew=config.resume is None)
    with log.following(federations):
        if nodes:
            outcomes = run_over(nodes, federations)
        else:
            outcomes = run_federations(federations, config.runtime)
    write_training(folder, data, outcomes, config.normalisation, time.perf_counter() - started)
