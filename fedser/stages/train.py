"""The stage that trains the private federations."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedser.client.speakers.corpus_data import CorpusData
from fedser.common.private_folder import private_folder
from fedser.conf.schema import StudyConfig
from fedser.loggers.base import RunLog
from fedser.server.federation.federation import Federation
from fedser.server.federation.remote_clients import Roster
from fedser.server.study.federations import without_mechanism
from fedser.server.study.files import write_training
from fedser.server.study.run import run_federations, run_over_network

if TYPE_CHECKING:  # slow to import, and a simulation does not need it
    from fedser.server.network.roster import Network


def train(
    config: StudyConfig,
    data: CorpusData | Roster,
    federations: Sequence[Federation],
    folder: Path,
    nodes: "Network | None",
    log: RunLog,
) -> None:
    """Train the private federations and write the results of training to the run's folder.

    After a start from public speech, a simulation also trains them without the mechanism.

    Parameters
    ----------
    nodes : Network or None
        The network of real clients; None trains simulated clients on this machine.
    log : RunLog
        Receives each round soon after it is trained.
    """
    started = time.perf_counter()
    log.begin(fresh=config.resume is None)
    with log.following(federations), private_folder() as workspace:
        unprotected = without_mechanism(config, federations, workspace)
        if nodes:
            outcomes = run_over_network(nodes, federations)
        else:
            outcomes = run_federations([*federations, *unprotected], config.runtime)
    private, others = outcomes[: len(federations)], outcomes[len(federations) :]
    seconds = time.perf_counter() - started
    write_training(folder, data, private, config.normalisation, seconds, others)
