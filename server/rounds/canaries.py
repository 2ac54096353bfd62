"""Send canaries, clients of the audit, along the path of every client's update, and score them.

The global model holds the directions that the audit looks for. A canary returns its own part of
the model, or minus this part. Under local noise the part is the whole model, and equally many
canaries send the opposite. In a noised sum each canary of a group has its own part, and equally
many parts belong to no canary: the noised sum along such a part is that of an absent client.
"""

from collections.abc import Callable, Sequence
from copy import copy

import numpy as np

from fedser.client.privacy.local import LocalDP
from fedser.client.speakers.clients import Clients
from fedser.client.training.canary import part_of
from fedser.common.arrays import Arrays, Bools, Floats64, flatten, l2_norm, unflatten
from fedser.common.seeds import numpy_stream
from fedser.conf.schema import AuditConfig
from fedser.server.federation.cohort import cohort_sampler
from fedser.server.federation.federation import CanaryScores
from fedser.server.privacy.matrix_factorization import Coefficients, white_noise
from fedser.server.rounds.audit_path import AuditPath, Recording, made_up_clients

CANARIES_PER_ROUND = 50
MIN_PART_SIZE = 2
"""Coordinates of a part, at least."""


def release_canaries(path: AuditPath, audit: AuditConfig, magnitude: float) -> list[CanaryScores]:
    """Send canaries along the path of clients' updates, and score what arrives.

    Parameters
    ----------
    magnitude : float
        Norm of the canaries' updates divided by the clipping norm.

    Returns
    -------
    list of CanaryScores
        Scores of an observer who knows who took part. If the plan's epsilon relies on secret
        cohorts, then also scores of an observer who does not know it. Empty for a mechanism that
        does not clip whole updates.
    """
    canaries, plan = _Canaries(path, magnitude), path.protocol.plan
    if plan.config.summed:
        coins = numpy_stream(path.protocol.seed, "audit", "coins").random(audit.canaries) < 0.5
        return _score_summed(canaries, coins, audit.releases)
    if isinstance(plan.client_mechanism(), LocalDP):
        return [_score_local(canaries, audit.canaries, audit.releases)]
    return []


class _Canaries:
    """Runs federations of canaries, in which the model never changes."""

    def __init__(self, path: AuditPath, magnitude: float) -> None:
        self._path, self.magnitude = path, magnitude
        self.protocol, self.model = path.protocol, path.model
        self._random = numpy_stream(self.protocol.seed, "audit", "direction")

    def of_cohort(self, clients: int) -> "_Canaries":
        """Return these canaries on the path of cohorts of exactly this size, if size matters."""
        other = copy(self)
        other._path = self._path.of_cohort(clients)
        other.protocol = other._path.protocol
        return other

    def draw_direction(self, names: Sequence[str]) -> Arrays:
        """Draw a random direction over these parameters; it is zero over the others."""
        return {
            name: self._random.standard_normal(array.shape, np.float32) * np.float32(name in names)
            for name, array in self.model.items()
        }

    def run(
        self,
        name: str,
        coins: Bools,
        parts: int,
        directions: Arrays,
        cohorts: Sequence[Sequence[int]],
        read: Callable[[Arrays], float],
    ) -> Recording:
        """Send the canaries of one cohort per round, and `read` each update as it arrives."""
        clients, name = _canary_clients(coins, parts), f"{name}-{self.magnitude:g}"
        return self._path.run(name, clients, directions, cohorts, "canary", read=read)


def _score_local(canaries: _Canaries, count: int, releases: int) -> CanaryScores:
    """Score `count` canaries and `count` opposites by their noised updates, over releases."""
    mechanism = canaries.protocol.plan.client_mechanism()
    assert isinstance(mechanism, LocalDP)  # other client-side mechanisms are not audited
    directions, weights = {}, {}
    for group, clip, stddev in zip(
        mechanism.groups, mechanism.clipping_norms, mechanism.noise, strict=True
    ):
        drawn = canaries.draw_direction(group)
        norm = l2_norm(drawn)  # of the group: other parameters are zero
        for n in group:
            at_clip = drawn[n] * np.float64(clip / norm)
            directions[n] = np.float32(canaries.magnitude) * at_clip.astype(np.float32)
            weights[n] = at_clip.ravel().astype(np.float64) / stddev**2
    directions = {n: directions.get(n, np.zeros_like(a)) for n, a in canaries.model.items()}
    plus = np.arange(2 * count) % 2 == 0
    scores = np.zeros(len(plus))
    batches = np.array_split(np.arange(len(plus)), -(-len(plus) // CANARIES_PER_ROUND))
    cohorts = [batch.tolist() for batch in batches] * releases

    def score(update: Arrays) -> float:
        flat = {n: update[n].ravel().astype(np.float64) for n in weights}
        return float(sum(flat[n] @ weight for n, weight in weights.items()))

    for of_round in canaries.run("audit", plus, 1, directions, cohorts, score).updates:
        for client, found in of_round.items():
            scores[client] += found
    apart = 1 if canaries.protocol.plan.config.relation == "replace_one" else 2
    return CanaryScores("known", releases, scores[plus], scores[~plus], apart)


def _score_summed(canaries: _Canaries, coins: Bools, releases: int) -> list[CanaryScores]:
    """Score canaries that took part, and parts of the model that belong to no canary."""
    plan = canaries.of_cohort(len(coins)).protocol.plan
    most = round(CANARIES_PER_ROUND / plan.sampling_rate)
    most = max(1, min(most, sum(plan.shared.values()) // (2 * MIN_PART_SIZE)))
    turns = max(1, round(releases / plan.turn_rate))
    known: list[tuple[Floats64, Floats64]] = []
    secret: list[tuple[Floats64, Floats64]] = []
    # Correlated noise must cover all turns of a client together.
    together = plan.bands > 1 and plan.turn_rate == 1
    for number, group in enumerate(np.array_split(coins, -(-len(coins) // most))):
        sent, blank, took_part = _score_group(canaries, f"audit{number}", group, turns)
        if together:
            known.append((sent.sum(axis=0), blank.sum(axis=0)))
        else:
            known.append((sent[took_part], blank[took_part]))
        stddev = plan.sum_stddev(1.0) / plan.steps_apart
        ratios = [_log_likelihood_ratio(s, plan.turn_rate, stddev) for s in (sent, blank)]
        secret.append((ratios[0], ratios[1]))
    observers = [("known", turns if together else 1, known)]
    if plan.config.vantage == "outsider" and plan.turn_rate < 1:
        observers.append(("secret", turns, secret))
    return [
        CanaryScores(
            participation=participation,
            releases=summed,
            present=np.concatenate([sent for sent, _ in found]),
            absent=np.concatenate([blank for _, blank in found]),
            apart=1 / plan.steps_apart,
        )
        for participation, summed, found in observers
    ]


def _score_group(
    canaries: _Canaries, name: str, coins: Bools, turns: int
) -> tuple[Floats64, Floats64, Bools]:
    """Score k canaries, and k parts that belong to no canary, in every turn of each canary.

    Returns
    -------
    sent, blank : ndarray of float, shape (turns, k)
        What the noised sums reveal of a turn along each part, divided by the clip; `sent` is signed
        by the coins.
    took_part : ndarray of bool, shape (turns, k)
        Whether each canary was in the cohort.
    """
    canaries = canaries.of_cohort(len(coins))
    plan, count = canaries.protocol.plan, len(coins)
    assert plan.config.clipping_norm is not None  # checked
    drawn = canaries.draw_direction(list(plan.shared))
    flat = flatten(drawn)
    parts = [part_of(flat, part, 2 * count) for part in range(2 * count)]
    units = [flat[part].astype(np.float64) / np.linalg.norm(flat[part]) for part in parts]
    for part, unit in zip(parts, units, strict=True):
        flat[part] = canaries.magnitude * plan.config.clipping_norm * unit
    federation, seed = f"{name}-{canaries.magnitude:g}", canaries.protocol.seed
    names = [str(canary) for canary in range(count)]
    sampler = cohort_sampler(plan.config, names, plan.sampling_rate, plan.bands, seed, federation)
    rounds = turns * plan.bands
    cohorts = [sampler(server_round) for server_round in range(1, rounds + 1)]
    # The next b - 1 sums reveal more about the last turns: the observer uses them too.
    waiting: list[list[int]] = [[]] * (len(plan.coefficients) - 1)
    directions = unflatten(flat, drawn)
    recorded = canaries.run(
        name, coins, 2 * count, directions, [*cohorts, *waiting], lambda update: 0.0
    )
    scores: list[list[float]] = []
    for aggregate in recorded.aggregates:
        total = flatten(aggregate.mean).astype(np.float64)
        total *= plan.expected_cohort / aggregate.clipping_norm
        scores.append([float(total[p] @ unit) for p, unit in zip(parts, units, strict=True)])
    present = np.zeros((rounds, count), bool)
    for row, cohort in enumerate(cohorts):
        present[row, cohort] = True
    revealed = _revealed(np.array(scores), plan.coefficients)[:rounds]

    def own_turns(of_rounds: np.ndarray) -> np.ndarray:
        by_turn = of_rounds.reshape(turns, plan.bands, count)
        return by_turn[:, sampler.groups, np.arange(count)]

    sent, blank = own_turns(revealed[:, :count]), own_turns(revealed[:, count:])
    return sent * np.where(coins, 1, -1), blank, own_turns(present)


def _revealed(sums: Floats64, coefficients: Coefficients) -> Floats64:
    """Return the best estimate of what one client added in each of T rounds, (T, n).

    The noise is made independent first. A client then appears in b rounds, with the coefficients
    as weights. In the last b - 1 rounds the estimate is too small.
    """
    c = np.array(coefficients)
    white = white_noise(sums, coefficients)
    padded = np.concatenate([white, np.zeros((len(c) - 1, white.shape[1]))])
    matched = sum(c[i] * padded[i : i + len(sums)] for i in range(len(c)))
    return np.asarray(matched / np.linalg.norm(c))


def _log_likelihood_ratio(scores: Floats64, rate: float, stddev: float) -> Floats64:
    """Return per column the log-likelihood ratio that a client takes part with rate `rate`."""
    drawn = np.log(rate) + (scores - 0.5) / stddev**2
    left_out = np.log1p(-rate) if rate < 1 else -np.inf
    return np.asarray(np.logaddexp(left_out, drawn).sum(axis=0))


def _canary_clients(coins: Bools, parts: int) -> Clients:
    """Give each canary one made-up utterance: its part as features, its coin as the label."""
    index = np.arange(len(coins))
    features = np.stack([index % parts, np.full(len(coins), parts)], axis=1)
    return made_up_clients(features.astype(np.float32), coins.astype(np.int64), [1] * len(coins))
