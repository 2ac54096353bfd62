"""Canaries: clients of the audit, sent the way of every client's update.

The global model holds the directions that are looked for; a canary returns its own part of
it, plus or minus. Under local noise that is the whole model, and as many clients send its
opposite. Under central noise each canary of a group has a part to itself, and as many parts are
nobody's: what the noised sum reads there is what it reads of an absent client.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from fedser.client.privacy.local import LocalDP
from fedser.client.speakers.clients import Clients
from fedser.client.training.canary import part_of
from fedser.common.arrays import Arrays, Bools, flatten, l2_norm, unflatten
from fedser.common.seeds import numpy_stream
from fedser.conf.schema import AuditConfig
from fedser.server.federation.cohort import cohort_sampler
from fedser.server.federation.federation import CanaryScores
from fedser.server.rounds.audit_path import AuditPath, Recording, made_up_clients

Floats64 = npt.NDArray[np.float64]

CANARIES_A_ROUND = 50
SMALLEST_PART = 2
"""Coordinates of a part, at least."""


def release_canaries(path: AuditPath, audit: AuditConfig, magnitude: float) -> list[CanaryScores]:
    """Send canaries through the path that clients' updates take, and score what arrives.

    Parameters
    ----------
    magnitude : float
        Norm of the canaries' updates over the clipping norm.

    Returns
    -------
    list of CanaryScores
        Against an observer who knows who took part, and against one who does not if the plan's
        epsilon relies on it; none for a mechanism that does not clip whole updates.
    """
    aviary, plan = _Aviary(path, magnitude), path.protocol.plan
    if plan.central:
        coins = numpy_stream(path.protocol.seed, "audit", "coins").random(audit.canaries) < 0.5
        return _central_evidence(aviary, coins, audit.releases)
    if isinstance(plan.client_mechanism(), LocalDP):
        return [_local_evidence(aviary, audit.canaries, audit.releases)]
    return []


class _Aviary:
    """Runs federations of canaries, whose model never moves."""

    def __init__(self, path: AuditPath, magnitude: float) -> None:
        self._path, self.magnitude = path, magnitude
        self.protocol, self.like = path.protocol, path.like
        self._random = numpy_stream(self.protocol.seed, "audit", "direction")

    def draw(self, names: Sequence[str]) -> Arrays:
        """Draw a direction over some parameters, zero over the others."""
        return {
            name: self._random.standard_normal(array.shape, np.float32) * np.float32(name in names)
            for name, array in self.like.items()
        }

    def fly(
        self,
        name: str,
        coins: Bools,
        parts: int,
        directions: Arrays,
        cohorts: Sequence[Sequence[int]],
        read: Callable[[Arrays], float],
    ) -> Recording:
        """Send the cohorts' canaries, one round each, and read each update as it arrives."""
        clients, name = _canary_clients(coins, parts), f"{name}-{self.magnitude:g}"
        return self._path.run(name, clients, directions, cohorts, "canary", read=read)


def _local_evidence(aviary: _Aviary, canaries: int, releases: int) -> CanaryScores:
    """Tell canaries from as many opposites by their noised updates, summed over releases."""
    mechanism = aviary.protocol.plan.client_mechanism()
    assert isinstance(mechanism, LocalDP)  # other client-side mechanisms are not audited
    directions, weights = {}, {}
    for group, clip, stddev in zip(
        mechanism.groups, mechanism.clipping_norms, mechanism.noise, strict=True
    ):
        drawn = aviary.draw(group)
        norm = l2_norm(drawn)  # which is zero outside of the group
        for n in group:
            at_clip = drawn[n] * np.float64(clip / norm)
            directions[n] = np.float32(aviary.magnitude) * at_clip.astype(np.float32)
            weights[n] = at_clip.ravel().astype(np.float64) / stddev**2
    directions = {n: directions.get(n, np.zeros_like(a)) for n, a in aviary.like.items()}
    plus = np.arange(2 * canaries) % 2 == 0
    scores = np.zeros(len(plus))

    batches = np.array_split(np.arange(len(plus)), -(-len(plus) // CANARIES_A_ROUND))
    cohorts = [batch.tolist() for batch in batches] * releases

    def score(update: Arrays) -> float:
        flat = {n: update[n].ravel().astype(np.float64) for n in weights}
        return float(sum(flat[n] @ weight for n, weight in weights.items()))

    for found in aviary.fly("audit", plus, 1, directions, cohorts, score).updates:
        for client, evidence in found.items():
            scores[client] += evidence
    apart = 1 if aviary.protocol.plan.config.relation == "replace_one" else 2
    return CanaryScores("known", releases, scores[plus], scores[~plus], apart)


def _central_evidence(aviary: _Aviary, coins: Bools, releases: int) -> list[CanaryScores]:
    """Tell canaries that took part from parts of the model that are nobody's."""
    plan = aviary.protocol.plan
    most = round(CANARIES_A_ROUND / plan.sampling_rate)
    most = max(1, min(most, sum(plan.shared.values()) // (2 * SMALLEST_PART)))
    rounds = max(1, round(releases / plan.sampling_rate))
    known: list[tuple[Floats64, Floats64]] = []
    secret: list[tuple[Floats64, Floats64]] = []
    for number, own in enumerate(np.array_split(coins, -(-len(coins) // most))):
        sent, blank, took_part = _central_scores(aviary, f"audit{number}", own, rounds)
        known.append((sent[took_part], blank[took_part]))
        stddev = plan.sum_stddev(1.0) / plan.steps_apart
        ratios = [_log_likelihood_ratio(s, plan.sampling_rate, stddev) for s in (sent, blank)]
        secret.append((ratios[0], ratios[1]))
    kinds = [("known", 1, known)]
    if plan.config.vantage == "outsider" and plan.sampling_rate < 1:
        kinds.append(("secret", rounds, secret))
    return [
        CanaryScores(
            participation=kind,
            releases=count,
            present=np.concatenate([sent for sent, _ in found]),
            absent=np.concatenate([blank for _, blank in found]),
            apart=1 / plan.steps_apart,
        )
        for kind, count, found in kinds
    ]


def _central_scores(
    aviary: _Aviary, name: str, coins: Bools, rounds: int
) -> tuple[Floats64, Floats64, Bools]:
    """Score k canaries and k parts that are nobody's in every round.

    Returns
    -------
    sent, blank : ndarray of float, shape (rounds, k)
        Noised sums along each part, over the clip and signed by the coins.
    took_part : ndarray of bool, shape (rounds, k)
    """
    protocol, count = aviary.protocol, len(coins)
    plan = protocol.plan
    assert plan.config.clipping_norm is not None  # checked
    drawn = aviary.draw(list(plan.shared))
    flat = flatten(drawn)
    parts = [part_of(flat, part, 2 * count) for part in range(2 * count)]
    units = [flat[part].astype(np.float64) / np.linalg.norm(flat[part]) for part in parts]
    for part, unit in zip(parts, units, strict=True):
        flat[part] = aviary.magnitude * plan.config.clipping_norm * unit
    sampler = cohort_sampler(
        plan.config, count, plan.sampling_rate, protocol.seed, f"{name}-{aviary.magnitude:g}"
    )
    cohorts = [sampler(server_round) for server_round in range(1, rounds + 1)]
    scores: list[list[float]] = []
    sent = unflatten(flat, drawn)
    recorded = aviary.fly(name, coins, 2 * count, sent, cohorts, lambda update: 0.0)
    for aggregate in recorded.aggregates:
        total = flatten(aggregate.mean).astype(np.float64)
        total *= plan.expected_cohort / aggregate.clipping_norm
        scores.append([float(total[p] @ unit) for p, unit in zip(parts, units, strict=True)])
    took_part = np.zeros((rounds, count), bool)
    for row, cohort in enumerate(cohorts):
        took_part[row, cohort] = True
    found = np.array(scores)
    return found[:, :count] * np.where(coins, 1, -1), found[:, count:], took_part


def _log_likelihood_ratio(scores: Floats64, rate: float, stddev: float) -> Floats64:
    """Return each column's evidence, over rounds, of a client drawn with probability `rate`."""
    drawn = np.log(rate) + (scores - 0.5) / stddev**2
    left_out = np.log1p(-rate) if rate < 1 else -np.inf
    return np.asarray(np.logaddexp(left_out, drawn).sum(axis=0))


def _canary_clients(coins: Bools, parts: int) -> Clients:
    """Give each canary one made-up utterance: its part, and its coin as the label."""
    index = np.arange(len(coins))
    features = np.stack([index % parts, np.full(len(coins), parts)], axis=1)
    return made_up_clients(features.astype(np.float32), coins.astype(np.int64), [1] * len(coins))
