"""The Flower ServerApp: run federations one after another over one grid."""

import time
from collections.abc import Sequence
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from omegaconf import OmegaConf

from fedser.common.errors import UserError
from fedser.common.private_folder import private_folder
from fedser.common.run_folder import alone
from fedser.conf.build import compose
from fedser.conf.run_record import note_command, note_run, reject_used
from fedser.server.rounds.federate import federate
from fedser.server.study.federations import private_federations, without_mechanism
from fedser.server.study.files import write_training
from fedser.server.study.public import public_model, with_public
from fedser.server.study.run import read_corpus, study_config

app = ServerApp()

POLL_SECONDS = 0.005
"""Seconds between two polls for replies; Flower's simulation engine takes 0.1 s."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train the private federations of a configuration: the entry point of ``flwr run``.

    ``run_config["overrides"]`` holds Hydra overrides, separated by spaces.
    ``run_config["output"]`` holds the folder for the results.
    """
    if hasattr(grid, "pull_interval"):  # the grid of Flower's simulation engine
        grid.pull_interval = POLL_SECONDS
    overrides = str(context.run_config["overrides"]).split()
    train_from_overrides(overrides, Path(str(context.run_config["output"])), grid)


def train_from_overrides(overrides: Sequence[str], folder: Path, grid: Grid) -> None:
    """Train a study's private federations over a given grid.

    The folder can then be attacked with ``fedser stage=attack run=FOLDER``.

    Raises
    ------
    UserError
        If the folder holds a run, if another process works in it, or for ``runtime=network``.
    """
    started = time.perf_counter()
    composed = compose(overrides)
    config = study_config(composed)
    if config.runtime.name == "network":
        raise UserError(
            "runtime=network: a SuperLink that flwr run can use runs any app for anybody; start "
            "the study with fedser (docs/real-clients.md)"
        )
    folder = folder.expanduser().absolute()
    with alone(folder), private_folder() as workspace:
        reject_used(folder)
        note_command(folder, composed, overrides)
        note_run(folder, OmegaConf.to_container(composed, resolve=True))
        public = public_model(config, folder, save=True)
        data = with_public(read_corpus(config.corpus, config), public)
        federations = private_federations(config, data, folder)
        outcomes = [federate(grid, each, workspace, "cpu") for each in federations]
        unprotected = [
            federate(grid, each, workspace, "cpu")
            for each in without_mechanism(config, federations, workspace)
        ]
        seconds = time.perf_counter() - started
        write_training(folder, data, outcomes, config.normalisation, seconds, unprotected)
