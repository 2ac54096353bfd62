"""Keeps a federation's books round by round: figures, best model, privacy spent, progress."""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Self

from tqdm import tqdm

from client.mechanism import Arrays
from server.accountant import release_mu, worst_epsilon
from server.evaluate import Evaluator
from server.federation import Federation, Outcome, Round, RoundSummary


class Recorder:
    """Evaluates each round's model and fills in an `Outcome`. Use as a context manager.

    Parameters
    ----------
    num_parameters : int
        Size of an update, for the accountant.
    """

    def __init__(self, federation: Federation, num_parameters: int) -> None:
        self.outcome = Outcome(federation)
        self._federation = federation
        self._num_parameters = num_parameters
        self._best_uar = -math.inf
        self._evaluator = None
        if federation.test is not None:
            validation = federation.clients.validation_set()
            self._evaluator = Evaluator(federation.protocol.model, validation, federation.test)
        self._mus = [self._mu(size) for size in federation.clients.sizes().tolist()]
        self._units = federation.clients.units(federation.protocol.plan.config.unit)
        rounds = federation.protocol.plan.num_rounds
        self._lapped = time.perf_counter()
        self._bar = tqdm(total=rounds, desc=federation.name, unit="round", mininterval=0.5)

    def record(
        self, server_round: int, arrays: Arrays, summary: RoundSummary, ledger: Counter[int]
    ) -> None:
        """Score the model that the round left behind and note its row."""
        scores = self._evaluator(arrays) if self._evaluator else None
        outcome = self.outcome
        outcome.releases = dict(ledger)
        spent = self._spent(ledger)
        outcome.epsilon = spent if math.isfinite(spent) else None
        outcome.rounds.append(
            Round(
                federation=self._federation.name,
                role=self._federation.role,
                fold=self._federation.fold,
                round=server_round,
                validation_uar=scores.validation_uar if scores else math.nan,
                test_uar=scores.test_uar if scores else math.nan,
                epsilon=math.nan if outcome.epsilon is None else outcome.epsilon,
                seconds=self._lap(),
                **vars(summary),
            )
        )
        # As in the 2022 study, the model is chosen among the later half of the rounds.
        late = server_round > self._federation.protocol.plan.num_rounds // 2
        if scores and (not late or scores.validation_uar > self._best_uar):
            # A run that stops earlier keeps its last model.
            self._best_uar = scores.validation_uar if late else -math.inf
            outcome.best_round, outcome.best_arrays = server_round, arrays
            outcome.best_scores = scores
        self._show(server_round)

    def overspends(self, ledger: Counter[int], cohort: Sequence[int]) -> bool:
        """Tell whether a round with this cohort would spend more than the plan allows."""
        limit = self._federation.protocol.plan.config.stop_at_epsilon
        return limit is not None and self._spent(ledger + Counter(cohort)) > limit

    def __enter__(self) -> Self:
        """Return the recorder."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the progress bar."""
        self._bar.close()

    def _mu(self, size: int) -> float:
        protocol = self._federation.protocol
        return release_mu(
            protocol.plan.client_mechanism(),
            protocol.plan.noise_multiplier,
            size,
            self._num_parameters,
            protocol.algorithm.name,
            protocol.training,
        )

    def _spent(self, ledger: Mapping[int, int]) -> float:
        delta = self._federation.protocol.plan.config.delta
        return worst_epsilon(self._mus, self._units, ledger, delta)

    def _lap(self) -> float:
        before, self._lapped = self._lapped, time.perf_counter()
        return self._lapped - before

    def _show(self, server_round: int) -> None:
        row = self.outcome.rounds[-1]
        shown: Mapping[str, str] = {
            **({"UAR": f"{row.validation_uar:.3f}"} if self._evaluator else {}),
            **({} if math.isnan(row.epsilon) else {"epsilon": f"{row.epsilon:.3g}"}),
        }
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(server_round - self._bar.n)
