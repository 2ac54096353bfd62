"""Run one federation from its first round to its last."""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import Grid

from fedser.client.corpora.base import EMOTIONS
from fedser.client.messages import from_record, to_record
from fedser.client.models.base import initial_arrays
from fedser.client.secure_aggregation.session import Session
from fedser.client.speakers.clients import Clients
from fedser.client.training.request import TrainRequest
from fedser.common.arrays import Arrays
from fedser.common.errors import Suspended, UserError
from fedser.common.seeds import NoiseSource, noise_source, numpy_stream
from fedser.server.federation.federation import Federation, Outcome
from fedser.server.federation.remote_clients import RemoteClients
from fedser.server.federation.scores import FiniteScores
from fedser.server.grids.local import DirectGrid, share_file, threads_of
from fedser.server.rounds.bookkeeping import Recorder
from fedser.server.rounds.checkpoint import STATE, Checkpoint, State
from fedser.server.strategy.aggregate import Aggregation, EncryptedMean, aggregation
from fedser.server.strategy.averaging import TappedAveraging
from fedser.server.strategy.encrypted_aggregation import EncryptedAggregation
from fedser.server.strategy.limits import UpdateLimit
from fedser.server.strategy.pruning import Pruning
from fedser.server.strategy.secure_aggregation import SecureAggregation
from fedser.server.transcript.writer import TranscriptWriter


class BudgetSpent(Exception):
    """The next round would spend more than ``privacy.stop_at_epsilon``."""


def federate(grid: Grid, federation: Federation, workspace: Path, device: str) -> Outcome:
    """Run one federation; go on from its checkpoint if there is one.

    Parameters
    ----------
    workspace : Path
        Folder for the clients' training data, which nodes read.
    device : str
        Device on which nodes train, ``cpu`` or ``cuda``.

    Raises
    ------
    UserError
        If ``transcript.store=features`` and no attack reads the updates, or if the first round
        already spends more than ``privacy.stop_at_epsilon``.
    """
    protocol = federation.protocol
    if protocol.transcript.store == "features" and federation.reader is None:
        raise UserError(
            "transcript.store=features: no attack reads the updates of this run; train and attack "
            "in one run of fedser, or set transcript.store=updates"
        )
    own_nodes = isinstance(grid, DirectGrid) or isinstance(federation.clients, RemoteClients)
    privacy = protocol.plan.config
    if privacy.hidden and not own_nodes:
        raise UserError(
            f"privacy.aggregation={privacy.aggregation}: Flower's own simulation does not keep the "
            "secrets of a node between two messages; use fedser with runtime=local, ray or network"
        )
    dataset = _share_training_data(grid, federation, workspace)
    model = _initial_model(federation)
    num_parameters = sum(array.size for array in model.values())
    with Recorder(federation, num_parameters, threads_of(grid)) as recorder:
        rounds = _Rounds(federation, recorder, model, dataset, device)
        num_files = rounds.resume()
        meta = federation.transcript_meta(list(model))
        with TranscriptWriter(federation.folder, meta, num_files, federation.reader) as writer:
            rounds.run(grid, writer)
    if not recorder.outcome.rounds:
        limit = protocol.plan.config.stop_at_epsilon
        raise UserError(
            f"privacy.stop_at_epsilon={limit:g} is less than the first round spends; raise it"
        )
    return recorder.outcome


def _share_training_data(grid: Grid, federation: Federation, workspace: Path) -> Path | None:
    """Write the clients' training data for the nodes; None if the nodes hold their own data."""
    if not isinstance(federation.clients, Clients):
        return None
    dataset = workspace / f"{federation.digest}.safetensors"
    federation.clients.save_training(dataset)
    share_file(grid, dataset)
    return dataset


def _initial_model(federation: Federation) -> Arrays:
    if federation.start is not None:
        return dict(federation.start)
    protocol = federation.protocol
    stream = numpy_stream(protocol.seed, federation.name, "initial")
    return initial_arrays(
        protocol.model, federation.dimension, len(EMOTIONS), int(stream.integers(2**63))
    )


class _Rounds:
    """The rounds of one federation.

    `run` gives Flower three steps of a round: `_draw_cohort`, `_train_request` and `_end_round`.
    """

    def __init__(
        self,
        federation: Federation,
        recorder: Recorder,
        model: Arrays,
        dataset: Path | None,
        device: str,
    ) -> None:
        self._federation, self._protocol = federation, federation.protocol
        self._plan, self._recorder, self._model = federation.protocol.plan, recorder, model
        self._dataset, self._device = dataset, device
        self._attempts = Counter[int]()  # how often each round was begun before this time
        self._released_before: dict[int, list[int]] = {}
        self._rounds_done = self._last_round = 0
        self._repeated = 0  # attempts that did not complete a round
        folder = federation.checkpoint
        digest = federation.digest if folder else ""
        self._checkpoint = Checkpoint(folder, digest) if folder else None
        self._pruning = Pruning(self._plan.config.kept or 1.0, self._plan.config.refresh or 1)
        self._limit = UpdateLimit(
            self._protocol.algorithm.name,
            self._protocol.training,
            self._plan.client_mechanism(),
            federation.clients.sizes().tolist(),
        )
        self._secure = self._secure_aggregation()
        self._aggregate = self._aggregation(folder, digest)
        self._gives_finite_scores = FiniteScores(self._protocol.model, federation.dimension)

    def _secure_aggregation(self) -> SecureAggregation | EncryptedAggregation | None:
        config = self._plan.config
        if not config.hidden:
            return None
        name, cohort, least = self._federation.name, self._plan.cohort, self._plan.min_clients

        def session(server_round: int) -> Session:
            return Session(name, server_round, self._attempts[server_round], cohort, least)

        kind = EncryptedAggregation if config.encrypted else SecureAggregation
        return kind(session, self._federation.round_timeout)

    def _aggregation(self, folder: Path | None, digest: str) -> Aggregation:
        if isinstance(self._secure, EncryptedAggregation):
            return EncryptedMean(self._secure.open, self._pruning, self._limit)
        source = partial(_sum_noise, self._federation, self._attempts)
        unmask = self._secure.unmask if self._secure else None
        return aggregation(self._plan, source, self._turn, folder, digest, unmask)

    def resume(self) -> Mapping[str, int]:
        """Go on from the checkpoint if there is one.

        Returns
        -------
        mapping of str to int
            Files of the transcript to keep, by kind; empty for a new run.
        """
        checkpoint = self._checkpoint
        if checkpoint is None:
            return {}
        state = checkpoint.load(self._recorder.outcome)
        if state is None:  # saved before any client is asked
            self._check_noise(saved=0, begun=0)
            checkpoint.save(self._state(checkpoint), self._recorder.outcome)
            return {}
        self._restore(state, checkpoint.announced[state.announced :])
        self._rounds_done = self._last_round = self._recorder.done
        self._repeated = len(checkpoint.announced) - self._rounds_done
        return state.chunks

    def _restore(self, state: State, repeated: Sequence[tuple[int, list[int]]]) -> None:
        """Take over a saved state; `repeated` are the rounds begun after it, with their cohorts."""
        if not self._gives_finite_scores(state.arrays):
            raise UserError(
                f"{self._federation.checkpoint}: its model gives no finite scores; start the run "
                "anew"
            )
        self._attempts.update(server_round for server_round, _ in repeated)
        cohorts = state.cohorts
        if self._plan.config.states_epsilon:  # each attempt has its own noise and is a release
            cohorts = [*cohorts, *(cohort for _, cohort in repeated)]
        else:
            self._released_before = dict(repeated)
        self._recorder.resume(cohorts)
        self._check_noise(saved=state.announced, begun=len(cohorts))
        self._model, self._aggregate.clipping_norm = state.arrays, state.clipping_norm
        self._pruning.support = state.support

    def _check_noise(self, saved: int, begun: int) -> None:
        """Reject a state of correlated noise that is older than the checkpoint, or newer.

        `saved` are the turns that the checkpoint covers, and `begun` those of the journal.
        """
        drawn = self._aggregate.turns_drawn
        if len(self._plan.coefficients) > 1 and not saved <= drawn <= begun:
            raise UserError(
                f"{self._federation.checkpoint}: the state of its noise is missing or does not fit "
                "its journal; start the run anew"
            )

    def run(self, grid: Grid, writer: TranscriptWriter) -> None:
        """Run the rounds that are left, and record the model after the last one.

        It ends earlier if the next round would spend more than ``privacy.stop_at_epsilon``.
        """
        strategy, timeout = self._strategy(writer), self._federation.round_timeout
        try:
            with suppress(BudgetSpent):
                strategy.start(
                    grid,
                    to_record(self._model),
                    num_rounds=self._plan.num_rounds - self._rounds_done,
                    timeout=timeout,
                    evaluate_fn=partial(self._end_round, strategy, writer),
                )
            strategy.evaluate(self._last_round + 1, self._model, grid, timeout)
        finally:
            if strategy.scores:
                strategy.scores.cancel()  # no node will report these scores any more
        writer.record_model(self._last_round + 1, self._model)

    def _strategy(self, writer: TranscriptWriter) -> TappedAveraging:
        federation, clients = self._federation, self._federation.clients
        return TappedAveraging(
            cohort=self._draw_cohort,
            request=self._train_request,
            aggregate=self._aggregate,
            server_step=self._protocol.algorithm.server_step,
            client_sizes=self._limit.client_sizes,
            tap=writer.record,
            rounds_done=self._rounds_done,
            min_clients=federation.min_clients,
            patience=federation.patience,
            remote=clients if isinstance(clients, RemoteClients) else None,
            limit=None if self._secure else self._limit,  # nobody sees the norm of a hidden update
            secure=self._secure,
            pruning=self._pruning,
        )

    def _draw_cohort(self, server_round: int) -> list[int]:
        """Draw the clients of a round, and note them in the journal before any is asked."""
        attempt, turn = self._attempts[server_round], self._turn(server_round)
        cohort = self._federation.sampler(server_round, attempt, turn)
        accountant = self._recorder.accountant
        if early := accountant.too_early(cohort):
            raise AssertionError(f"round {server_round}: it is not the turn of {early[0]}")
        if accountant.overspends(server_round, cohort):
            raise BudgetSpent
        if self._checkpoint:
            self._checkpoint.announce(server_round, cohort, self._plan.config.states_epsilon)
        return cohort

    def _turn(self, server_round: int) -> int:
        """Return the number of the present attempt among the attempts of all rounds."""
        return server_round + self._repeated

    def _train_request(self, server_round: int, clients: tuple[int, ...]) -> TrainRequest:
        return self._protocol.train_request(
            self._federation.name,
            self._protocol.algorithm.name,
            self._dataset,
            self._device,
            server_round,
            clients,
            self._attempts[server_round],
        )

    def _end_round(
        self,
        strategy: TappedAveraging,
        writer: TranscriptWriter,
        flower_round: int,
        record: ArrayRecord,
    ) -> MetricRecord | None:
        """Check and keep the model of a round, add to the ledger, and save if a save is due."""
        if flower_round == 0:  # Flower also calls this before the first round
            return None
        model, server_round = from_record(record), self._rounds_done + flower_round
        if not self._gives_finite_scores(model):
            raise Suspended(_diverged(self._federation, server_round))
        self._model, self._last_round = model, server_round
        # Clients asked before an interruption may have released the same update already.
        released = self._released_before.get(server_round, strategy.last_released)
        self._recorder.accountant.add(released)
        self._recorder.record(server_round, model, strategy.last_round, strategy.scores)
        due = server_round % self._federation.checkpoint_every == 0
        if due or server_round == self._plan.num_rounds:
            self._save(writer)
        return None

    def _save(self, writer: TranscriptWriter) -> None:
        """Write a checkpoint once the transcript so far is on the disk; training goes on."""
        checkpoint, outcome = self._checkpoint, self._recorder.latest
        if checkpoint is None or outcome is None:
            return
        state = self._state(checkpoint)

        def save(num_files: dict[str, int]) -> None:
            with suppress(CancelledError):  # the run failed before the round had its scores
                checkpoint.save(replace(state, chunks=num_files), outcome.result())

        writer.save_point(save)

    def _state(self, checkpoint: Checkpoint) -> State:
        """Return the present state for a checkpoint, without the numbers of transcript files."""
        return State(
            self._model,
            self._aggregate.clipping_norm,
            cohorts=[*self._recorder.accountant.cohorts],
            chunks={},
            announced=len(checkpoint.announced),
            support=self._pruning.support,
        )


def _sum_noise(federation: Federation, attempts: Counter[int], server_round: int) -> NoiseSource:
    """Return the noise source of a round's sum; each attempt of a round has its own noise."""
    stream = (federation.name, "sum noise", server_round, attempts[server_round])
    return noise_source(federation.protocol.noise_seed, *stream)


def _diverged(federation: Federation, server_round: int) -> str:
    kept = (
        f"; {federation.checkpoint / STATE} keeps the last one that does"
        if federation.checkpoint
        else ""
    )
    return (
        f"{federation.name}, round {server_round}: the model of this round gives no finite "
        f"scores, and is not kept{kept}. Lower training.learning_rate or "
        "algorithm.server_learning_rate and start anew; if a node sent wrong updates, remove it"
    )
