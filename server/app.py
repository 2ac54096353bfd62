"""The Flower ServerApp: runs federations one after another over one grid."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

app = ServerApp()

POLL_SECONDS = 0.005


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Entry point of ``flwr run``: train the private federations of a configuration.

    ``run_config["overrides"]`` holds Hydra overrides separated by spaces, and
    ``run_config["output"]`` the folder for the results.
    """
    from fedser.server.study.run import train_from_overrides  # imports this module

    if hasattr(grid, "pull_interval"):  # that of Flower's simulation engine sleeps 100 ms a poll
        grid.pull_interval = POLL_SECONDS
    overrides = str(context.run_config["overrides"]).split()
    train_from_overrides(overrides, Path(str(context.run_config["output"])), grid)
