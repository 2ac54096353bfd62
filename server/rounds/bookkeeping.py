"""Record the figures of each round, the best model, the privacy spent, and the progress."""

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
from fedser.server.federation.scores import Evaluator, ModelScores
from fedser.server.grids.progress import bar
from fedser.server.privacy.accountant import Accountant
from fedser.server.privacy.statement import epsilon_text

WORST = (-1, -math.inf)
"""Rank of a model without figures."""


class Recorder:
    """Evaluates the model of each round and fills in an `Outcome`. Use as a context manager.

    The row of a round is added once its model is scored. A thread scores it while clients train in
    the next round, or the nodes score it in the next round.

    Parameters
    ----------
    num_parameters : int
        Number of parameters of an update, for the accountant.
    threads : int
        Threads that evaluate a model.

    Attributes
    ----------
    outcome : Outcome
    accountant : Accountant
        The participation ledger; the caller adds each round to it.
    latest : Future of Outcome, or None
        The outcome after the last round that was recorded; None before the first round.
    """

    def __init__(self, federation: Federation, num_parameters: int, threads: int) -> None:
        self.outcome = Outcome(federation)
        self._federation = federation
        self._best = WORST
        self._evaluator = None
        if federation.test is not None:
            assert isinstance(federation.clients, Clients)  # nodes hold their own test sets
            validation = federation.clients.validation_set()
            self._evaluator = Evaluator(
                federation.protocol.model, validation, federation.test, threads
            )
        if federation.start is not None:
            self.outcome.public_scores = self._evaluate(federation.start)
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
        self._round_began = time.perf_counter()
        self._bar = bar(rounds, federation.name)

    def resume(self, cohorts: Iterable[Sequence[int]]) -> None:
        """Go on from the outcome of a checkpoint, and from the cohorts of its ledger."""
        for cohort in cohorts:
            self.accountant.add(cohort)
        outcome, half = self.outcome, self._federation.protocol.plan.num_rounds // 2
        if outcome.best_scores and outcome.best_round > half:
            self._best = _rank(outcome.best_scores)
        self._update_spent_privacy()
        self._bar.update(self.done - self._bar.n)

    @property
    def done(self) -> int:
        """Number of the last round that was recorded; waits until its row is added."""
        if self.latest:
            self.latest.result()
        return self.outcome.rounds[-1].round if self.outcome.rounds else 0

    def record(
        self,
        server_round: int,
        arrays: Arrays,
        summary: RoundSummary,
        scores: Future[ModelScores] | None = None,
    ) -> None:
        """Add the row of a round once its model is scored; do not wait for the scores.

        Waits for the row of the round before.

        Parameters
        ----------
        scores : Future of ModelScores, optional
            Scores from the nodes, which come before the next round is recorded. By default the
            recorder evaluates the model itself, if the federation has a test set.
        """
        last = self.done  # waits for its row, which must not show the privacy spent after it
        assert server_round > last
        self._update_spent_privacy()
        find_scores = scores.result if scores else partial(self._evaluate, arrays)
        self.latest = self._thread.submit(
            self._add_row, server_round, arrays, summary, self._seconds(), find_scores
        )

    def _evaluate(self, arrays: Arrays) -> ModelScores | None:
        return self._evaluator(arrays) if self._evaluator else None

    def _add_row(
        self,
        server_round: int,
        arrays: Arrays,
        summary: RoundSummary,
        seconds: float,
        find_scores: Callable[[], ModelScores | None],
    ) -> Outcome:
        """Add the row of a round, keep the model if it is the best, and return a copy."""
        scores = find_scores()
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
        # As in the 2022 study, the model is chosen among the later half of the rounds. After a
        # public start the last model is taken: no guarantee covers a choice by private utterances.
        late = server_round > self._federation.protocol.plan.num_rounds // 2
        last_counts = not late or self._federation.start is not None
        if scores and (last_counts or not outcome.best_scores or _rank(scores) > self._best):
            # A run that stops in the first half keeps its last model.
            self._best = _rank(scores) if late else WORST
            outcome.best_round, outcome.best_arrays = server_round, arrays
            outcome.best_scores = scores
        self._show(server_round)
        return replace(outcome, rounds=[*outcome.rounds])

    def _update_spent_privacy(self) -> None:
        self.outcome.releases = dict(self.accountant.releases)
        self.outcome.epsilon = self.accountant.epsilon
        self.outcome.epsilon_known = self.accountant.known_epsilon
        self.outcome.exposures = self.accountant.exposures
        self.outcome.known = self.accountant.known

    def __enter__(self) -> Self:
        """Return the recorder."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the progress bar once all rows are added."""
        self._thread.shutdown()
        self._bar.close()

    def _seconds(self) -> float:
        """Return the seconds since the last call."""
        before, self._round_began = self._round_began, time.perf_counter()
        return self._round_began - before

    def _show(self, server_round: int) -> None:
        row = self.outcome.rounds[-1]
        shown: Mapping[str, str] = {
            **({} if math.isnan(row.validation_uar) else {"UAR": f"{row.validation_uar:.3f}"}),
            **({} if math.isnan(row.epsilon) else {"epsilon": epsilon_text(row.epsilon)}),
        }
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(server_round - self._bar.n)


def _rank(scores: ModelScores) -> tuple[int, float]:
    """Return the rank of a model: by its validation UAR, if validation and test are known.

    A figure over the utterances of all nodes ranks above a figure over some nodes: the two cannot
    be compared.
    """
    known = not math.isnan(scores.validation_uar + scores.test_uar)
    return (scores.utterances, scores.validation_uar) if known else WORST
