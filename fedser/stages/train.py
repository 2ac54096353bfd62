"""The stage that trains the private federations."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from fedser.attacks.adversary.prepare import PreparedAttacks
from fedser.attacks.adversary.score_online import with_readers
from fedser.client.speakers.corpus_data import CorpusData
from fedser.conf.schema import StudyConfig
from fedser.loggers.base import RunLog
from fedser.server.federation.remote_clients import Roster
from fedser.server.study.federations import private_federations, write_training
from fedser.server.study.run import (
    run_federations,
    run_over,
)

if TYPE_CHECKING:
    from fedser.server.network.superlink import Network


def train(
    config: StudyConfig,
    data: CorpusData | Roster,
    folder: Path,
    learned: PreparedAttacks | None,
    nodes: "Network | None",
    log: RunLog,
) -> None:
    """Train the private federations, here or at the nodes, and write what training leaves.

    Parameters
    ----------
    learned : PreparedAttacks, optional
        Fitted attacks that read the updates during training.
    nodes : Network, optional
        The network of real clients.
    """
    started = time.perf_counter()
    federations = private_federations(config, data, folder)
    if learned:
        federations = with_readers(config, learned, federations)
    log.begin(fresh=config.resume is None)
    with log.following(federations):
        if nodes:
            outcomes = run_over(nodes, federations)
        else:
            outcomes = run_federations(federations, config.runtime)
    write_training(folder, data, outcomes, config.normalisation, time.perf_counter() - started)
