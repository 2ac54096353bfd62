"""Keeps a federation's books round by round: figures, best model, privacy spent, progress."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Self

from fedser.client.speakers.clients import Clients
from fedser.common.arrays import Arrays
from fedser.server.federation.federation import Federation, Outcome, Round, RoundSummary
from fedser.server.federation.scores import Evaluator, Scores
from fedser.server.grids.progress import bar
from fedser.server.privacy.accountant import Accountant
from fedser.server.privacy.statement import epsilon_text

WORST = (-1, -math.inf)
"""The rank of a model of which figures are missing."""


class Recorder:
    """Evaluates each round's model and fills in an `Outcome`. Use as a context manager.

    A row is there once the model that the round left is scored: by a thread while clients train in
    the next round, or by the nodes that are asked in it.

    Parameters
    ----------
    num_parameters : int
        Size of an update, for the accountant.
    threads : int
        On which models are evaluated.

    Attributes
    ----------
    outcome : Outcome
    accountant : Accountant
        The participation ledger, which the run fills in.
    latest : Future of Outcome, or None
        Will hold the outcome after the last round that was recorded; None before the first.
    """

    def __init__(self, federation: Federation, num_parameters: int, threads: int) -> None:
        self.outcome = Outcome(federation)
        self._federation = federation
        self._best = WORST
        self._evaluator = None
        if federation.test is not None:
            assert isinstance(federation.clients, Clients)  # nodes keep what they test on
            validation = federation.clients.validation_set()
            self._evaluator = Evaluator(
                federation.protocol.model, validation, federation.test, threads
            )
        protocol = federation.protocol
        self.accountant = Accountant(
            plan=protocol.plan,
            sizes=federation.clients.sizes().tolist(),
            units=federation.clients.units(protocol.plan.config.unit),
            num_parameters=num_parameters,
            algorithm=protocol.algorithm.name,
            training=protocol.training,
            others=federation.others,
        )
        rounds = protocol.plan.num_rounds
        self._thread = ThreadPoolExecutor(1, "evaluation")
        self.latest: Future[Outcome] | None = None
        self._lapped = time.perf_counter()
        self._bar = bar(rounds, federation.name)

    def resume(self, cohorts: Iterable[Sequence[int]]) -> None:
        """Go on from the outcome that a checkpoint filled in, and from its ledger."""
        for cohort in cohorts:
            self.accountant.add(cohort)
        outcome, half = self.outcome, self._federation.protocol.plan.num_rounds // 2
        if outcome.best_scores and outcome.best_round > half:
            self._best = _rank(outcome.best_scores)
        self._note_spent()
        self._bar.update(self.done - self._bar.n)

    @property
    def done(self) -> int:
        """Number of the last round that was recorded; waits until its row is there."""
        if self.latest:
            self.latest.result()
        return self.outcome.rounds[-1].round if self.outcome.rounds else 0

    def record(
        self,
        server_round: int,
        arrays: Arrays,
        summary: RoundSummary,
        scores: Future[Scores] | None = None,
    ) -> None:
        """Note the round's row once the model that it left behind is scored; the run goes on.

        Waits for the round before.

        Parameters
        ----------
        scores : Future of Scores, optional
            Will hold what nodes find of the model, before the next round is recorded; without it
            the recorder evaluates the model itself, if the federation has a test set.
        """
        last = self.done  # which waits for its row: what is noted next is not to show there
        assert server_round > last
        self._note_spent()
        known = scores.result if scores else partial(self._evaluate, arrays)
        self.latest = self._thread.submit(
            self._note, server_round, arrays, summary, self._lap(), known
        )

    def _evaluate(self, arrays: Arrays) -> Scores | None:
        return self._evaluator(arrays) if self._evaluator else None

    def _note(
        self,
        server_round: int,
        arrays: Arrays,
        summary: RoundSummary,
        seconds: float,
        known: Callable[[], Scores | None],
    ) -> Outcome:
        scores = known()
        outcome = self.outcome
        outcome.rounds.append(
            Round(
                federation=self._federation.name,
                role=self._federation.role,
                fold=self._federation.fold,
                round=server_round,
                validation_uar=scores.validation_uar if scores else math.nan,
                test_uar=scores.test_uar if scores else math.nan,
                epsilon=math.nan if outcome.epsilon is None else outcome.epsilon,
                epsilon_known=math.nan if outcome.epsilon_known is None else outcome.epsilon_known,
                seconds=seconds,
                **vars(summary),
            )
        )
        # As in the 2022 study, the model is chosen among the later half of the rounds.
        late = server_round > self._federation.protocol.plan.num_rounds // 2
        if scores and (not late or not outcome.best_scores or _rank(scores) > self._best):
            # A run that stops earlier keeps its last model.
            self._best = _rank(scores) if late else WORST
            outcome.best_round, outcome.best_arrays = server_round, arrays
            outcome.best_scores = scores
        self._show(server_round)
        return replace(outcome, rounds=[*outcome.rounds])

    def _note_spent(self) -> None:
        self.outcome.releases = dict(self.accountant.releases)
        self.outcome.epsilon = self.accountant.epsilon
        self.outcome.epsilon_known = self.accountant.known_epsilon
        self.outcome.exposures = self.accountant.exposures
        self.outcome.known = self.accountant.known

    def __enter__(self) -> Self:
        """Return the recorder."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the progress bar, once all rows are there."""
        self._thread.shutdown()
        self._bar.close()

    def _lap(self) -> float:
        before, self._lapped = self._lapped, time.perf_counter()
        return self._lapped - before

    def _show(self, server_round: int) -> None:
        row = self.outcome.rounds[-1]
        shown: Mapping[str, str] = {
            **({} if math.isnan(row.validation_uar) else {"UAR": f"{row.validation_uar:.3f}"}),
            **({} if math.isnan(row.epsilon) else {"epsilon": epsilon_text(row.epsilon)}),
        }
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(server_round - self._bar.n)


def _rank(scores: Scores) -> tuple[int, float]:
    """Return what a model is chosen by: the validation UAR, if both its figures are known.

    Figures of all nodes' utterances come before those of some, which do not compare.
    """
    known = not math.isnan(scores.validation_uar + scores.test_uar)
    return (scores.utterances, scores.validation_uar) if known else WORST
