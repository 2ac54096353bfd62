"""One federation from its first round to its last."""

from collections import Counter
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid

from fedser.client.corpora.base import EMOTIONS
from fedser.client.messages import from_record, to_record
from fedser.client.models.base import initial_arrays
from fedser.client.speakers.clients import Clients
from fedser.client.training.request import TrainRequest
from fedser.common.errors import Suspended, UserError
from fedser.common.seeds import NoiseSource, noise_source, numpy_stream
from fedser.server.federation.federation import Federation, Outcome
from fedser.server.federation.remote_clients import RemoteClients
from fedser.server.federation.scores import FiniteScores
from fedser.server.grids.local import offer, threads_of
from fedser.server.rounds.bookkeeping import Recorder
from fedser.server.rounds.checkpoint import STATE, Checkpoint, State
from fedser.server.strategy.aggregate import aggregation
from fedser.server.strategy.averaging import TappedAveraging
from fedser.server.strategy.limits import UpdateLimit
from fedser.server.transcript.writer import TranscriptWriter


class BudgetSpent(Exception):
    """The next round would spend more than ``privacy.stop_at_epsilon``."""


def federate(grid: Grid, federation: Federation, workspace: Path, device: str) -> Outcome:
    """Run one federation, from its checkpoint on if it has one.

    Parameters
    ----------
    workspace : Path
        Folder for the clients' training data, which nodes read.
    device : str
        On which nodes train, ``cpu`` or ``cuda``.

    Raises
    ------
    UserError
        If nothing is to be kept of the updates and nobody reads them; if the first round
        overspends.
    """
    if federation.protocol.transcript.store == "features" and federation.reader is None:
        raise UserError(
            "transcript.store=features: no attack reads the updates here; train and attack in one "
            "run of fedser, or set transcript.store=updates"
        )
    clients, dataset = federation.clients, None
    if isinstance(clients, Clients):
        dataset = workspace / f"{federation.name}.safetensors"
        clients.save_training(dataset)
        offer(grid, dataset)
    protocol = federation.protocol
    plan, seed = protocol.plan, protocol.seed
    stream = numpy_stream(seed, federation.name, "initial")
    arrays = initial_arrays(
        protocol.model,
        federation.dimension,
        len(EMOTIONS),
        int(stream.integers(2**63)),
    )
    attempts = Counter[int]()  # of each round, before this one

    def noise(server_round: int) -> NoiseSource:
        stream = (federation.name, "sum noise", server_round, attempts[server_round])
        return noise_source(protocol.noise_seed, *stream)

    aggregate = aggregation(plan, noise)
    num_parameters = sum(array.size for array in arrays.values())
    kept_in = federation.checkpoint
    checkpoint = Checkpoint(kept_in, federation.digest) if kept_in else None
    finite = FiniteScores(protocol.model, federation.dimension)
    with Recorder(federation, num_parameters, threads_of(grid)) as recorder:
        state = checkpoint.load(recorder.outcome) if checkpoint else None
        asked_before: dict[int, list[int]] = {}
        if checkpoint and state:
            if not finite(state.arrays):
                raise UserError(f"{kept_in}: its model gives no finite scores; start the run anew")
            again, cohorts = checkpoint.announced[state.announced :], state.cohorts
            attempts.update(server_round for server_round, _ in again)
            if plan.config.states_epsilon:  # each attempt has its own noise and is a release
                cohorts = [*cohorts, *(asked for _, asked in again)]
            else:
                asked_before = dict(again)
            recorder.resume(cohorts)
            arrays, aggregate.clipping_norm = state.arrays, state.clipping_norm
        elif checkpoint:  # before anybody is asked
            checkpoint.save(State(arrays, aggregate.clipping_norm, [], {}, 0), recorder.outcome)
        done = last = recorder.done
        meta = federation.transcript_meta(list(arrays))
        chunks, reader = state.chunks if state else {}, federation.reader
        with TranscriptWriter(federation.folder, meta, chunks, reader) as writer:

            def cohort(server_round: int) -> list[int]:
                drawn = federation.sampler(server_round, attempts[server_round])
                if recorder.accountant.overspends(server_round, drawn):
                    raise BudgetSpent
                if checkpoint:
                    checkpoint.announce(server_round, drawn, plan.config.states_epsilon)
                return drawn

            def request(server_round: int, own: tuple[int, ...]) -> TrainRequest:
                return protocol.train_request(
                    federation.name,
                    protocol.algorithm.name,
                    dataset,
                    device,
                    server_round,
                    own,
                    attempts[server_round],
                )

            def after_round(flower_round: int, record: ArrayRecord) -> MetricRecord | None:
                if flower_round == 0:  # Flower also asks before the first round
                    return None
                nonlocal arrays, last
                updated, server_round = from_record(record), done + flower_round
                if not finite(updated):
                    raise Suspended(_diverged(federation, server_round))
                arrays, last = updated, server_round
                # Whoever was asked before an interruption may have released the same already.
                released = asked_before.get(server_round, strategy.last_released)
                recorder.accountant.add(released)
                recorder.record(server_round, arrays, strategy.last_round, strategy.scores)
                due = server_round % federation.checkpoint_every == 0
                latest = recorder.latest
                if checkpoint and latest and (due or server_round == plan.num_rounds):
                    cohorts, announced = recorder.accountant.cohorts, len(checkpoint.announced)
                    state = State(arrays, aggregate.clipping_norm, [*cohorts], {}, announced)

                    def save(chunks: dict[str, int]) -> None:
                        with suppress(CancelledError):  # the run failed before the row was there
                            checkpoint.save(replace(state, chunks=chunks), latest.result())

                    writer.save_point(save)
                return None

            strategy = TappedAveraging(
                cohort=cohort,
                request=request,
                aggregate=aggregate,
                server_step=protocol.algorithm.server_step,
                held=clients.sizes().tolist(),
                tap=writer.record,
                rounds_done=done,
                min_clients=federation.min_clients,
                patience=federation.patience,
                remote=clients if isinstance(clients, RemoteClients) else None,
                limit=UpdateLimit(
                    protocol.algorithm.name,
                    protocol.training,
                    plan.client_mechanism(),
                    clients.sizes().tolist(),
                ),
            )
            try:
                with suppress(BudgetSpent):
                    strategy.start(
                        grid,
                        to_record(arrays),
                        num_rounds=plan.num_rounds - done,
                        timeout=federation.round_timeout,
                        evaluate_fn=after_round,
                    )
                strategy.evaluate(last + 1, arrays, grid, federation.round_timeout)
            finally:
                if strategy.scores:  # nobody is to wait for what no node will tell
                    strategy.scores.cancel()
            writer.record_model(last + 1, arrays)
    if not recorder.outcome.rounds:
        limit = plan.config.stop_at_epsilon
        raise UserError(f"privacy.stop_at_epsilon={limit:g} is less than the first round spends")
    return recorder.outcome


def _diverged(federation: Federation, server_round: int) -> str:
    kept = (
        f"; {federation.checkpoint / STATE} keeps the last one that does"
        if federation.checkpoint
        else ""
    )
    return (
        f"{federation.name}, round {server_round}: the model that this round makes gives no finite "
        f"scores, and is not kept{kept}. Lower training.learning_rate or "
        "algorithm.server_learning_rate and start anew; if a node sent wrong updates, remove it"
    )
