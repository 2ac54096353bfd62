"""The Flower ServerApp: runs federations one after another over one grid."""

from contextlib import suppress
from functools import partial
from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from client.corpora.base import EMOTIONS
from client.errors import UserError
from client.model import initial_arrays
from client.seeds import numpy_stream
from server.cohort import fixed_size_cohort
from server.federation import Federation, Outcome
from server.recorder import Recorder
from server.strategy import TappedAveraging
from server.transcript import TranscriptWriter


class BudgetSpent(Exception):
    """The next round would spend more than ``privacy.stop_at_epsilon``."""


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Entry point of ``flwr run``: train the private federations of a configuration.

    ``run_config["overrides"]`` holds Hydra overrides separated by spaces, and
    ``run_config["output"]`` the folder for the results.
    """
    from server.run import train_from_overrides  # imports this module

    overrides = str(context.run_config["overrides"]).split()
    train_from_overrides(overrides, Path(str(context.run_config["output"])), grid)


def federate(grid: Grid, federation: Federation, workspace: Path, device: str) -> Outcome:
    """Run one federation.

    Parameters
    ----------
    workspace : Path
        Folder that the nodes can read, for the clients' training data.
    device : str
        On which nodes train, ``cpu`` or ``cuda``.
    """
    dataset = workspace / f"{federation.name}.safetensors"
    federation.clients.save_training(dataset)
    protocol = federation.protocol
    stream = numpy_stream(protocol.seed, federation.name, "initial")
    start = initial_arrays(
        protocol.model, federation.dimension, len(EMOTIONS), int(stream.integers(2**63))
    )
    with (
        TranscriptWriter(federation.folder, federation.transcript_meta(list(start))) as writer,
        Recorder(federation, sum(array.size for array in start.values())) as recorder,
    ):

        def cohort(server_round: int) -> list[int]:
            drawn = fixed_size_cohort(
                len(federation.clients),
                protocol.plan.sampling_rate,
                protocol.seed,
                federation.name,
                server_round,
            )
            if recorder.overspends(strategy.releases, drawn):
                raise BudgetSpent
            return drawn

        strategy = TappedAveraging(
            cohort=cohort,
            request=partial(federation.train_request, dataset, device),
            server_step=protocol.algorithm.server_step,
            tap=writer.record,
        )

        def after_round(server_round: int, record: ArrayRecord) -> MetricRecord | None:
            if server_round > 0:  # Flower also asks before the first round
                arrays = {name: array.numpy() for name, array in record.items()}
                recorder.record(server_round, arrays, strategy.last_round, strategy.releases)
            return None

        with suppress(BudgetSpent):
            strategy.start(
                grid,
                ArrayRecord({name: Array(array) for name, array in start.items()}),
                num_rounds=protocol.plan.num_rounds,
                evaluate_fn=after_round,
            )
    if not recorder.outcome.rounds:
        limit = protocol.plan.config.stop_at_epsilon
        raise UserError(f"privacy.stop_at_epsilon={limit:g} is less than the first round spends")
    return recorder.outcome
