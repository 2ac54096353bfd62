"""Canaries: clients of the audit, sent the way of every client's update.

The global model holds the directions that are looked for; a canary returns its own part of
it, plus or minus. Under local noise that is the whole model, and as many clients send its
opposite. Under central noise each canary of a group has a part to itself, and as many parts are
nobody's: what the noised sum reads there is what it reads of an absent client.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.serverapp import Grid

from client.canary import flatten, part_of, unflatten
from client.corpora.base import EMOTIONS
from client.mechanism import Arrays, l2_norm
from client.model import initial_arrays
from client.privacy import LocalDP
from client.seeds import noise_source, numpy_stream
from client.speakers import Clients
from client.wire import to_record
from conf.schema import AuditConfig
from server.aggregate import Aggregate, Received, aggregation
from server.cohort import cohort_sampler
from server.federation import Evidence, Protocol
from server.grid import offer
from server.progress import bar
from server.strategy import TappedAveraging
from server.transcript import Releases

Floats64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

CANARIES_A_ROUND = 50
SMALLEST_PART = 2
"""Coordinates of a part, at least."""


def release_canaries(
    grid: Grid,
    protocol: Protocol,
    dimension: int,
    audit: AuditConfig,
    magnitude: float,
    workspace: Path,
    device: str,
) -> list[Evidence]:
    """Send canaries through the path that clients' updates take, and score what arrives.

    Parameters
    ----------
    dimension : int
        Number of features, which sets the size of the model.
    magnitude : float
        Norm of the canaries' updates over the clipping norm.

    Returns
    -------
    list of Evidence
        Against who knows who took part, and against who does not where the plan's epsilon
        relies on it.
    """
    aviary = _Aviary(grid, protocol, dimension, magnitude, workspace, device)
    if protocol.plan.central:
        coins = numpy_stream(protocol.seed, "audit", "coins").random(audit.canaries) < 0.5
        return _central_evidence(aviary, coins, audit.releases)
    return [_local_evidence(aviary, audit.canaries, audit.releases)]


class _Aviary:
    """Runs federations of canaries, whose model never moves."""

    def __init__(
        self,
        grid: Grid,
        protocol: Protocol,
        dimension: int,
        magnitude: float,
        workspace: Path,
        device: str,
    ) -> None:
        self._grid, self._workspace, self._device = grid, workspace, device
        self.protocol, self.magnitude = protocol, magnitude
        self.like = initial_arrays(protocol.model, dimension, len(EMOTIONS), 0)
        self._random = numpy_stream(protocol.seed, "audit", "direction")

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
        tap: Callable[[Releases], None] = lambda releases: None,
        observe: Callable[[Aggregate], None] = lambda aggregate: None,
    ) -> None:
        """Send the cohorts' canaries, a round each, showing what arrives and what it comes to."""
        protocol, name = self.protocol, f"{name}-{self.magnitude:g}"
        dataset = self._workspace / f"{name}.safetensors"
        _canary_clients(coins, parts).save_training(dataset)
        offer(self._grid, dataset)
        seed = protocol.noise_seed
        aggregate = aggregation(protocol.plan, lambda r: noise_source(seed, name, "sum noise", r))

        def observed(server_round: int, received: Sequence[Received], model: Arrays) -> Aggregate:
            found = aggregate(server_round, received, model)
            observe(found)
            return found

        def tapped(server_round: int, model: Arrays, received: Sequence[Releases]) -> None:
            for releases in received:
                tap(releases)

        strategy = TappedAveraging(
            cohort=lambda server_round: list(cohorts[server_round - 1]),
            request=partial(protocol.train_request, name, "canary", dataset, self._device),
            aggregate=observed,
            server_step=0.0,
            held=[1] * len(coins),
            tap=tapped,
        )
        sent = to_record(directions)
        with bar(len(cohorts), name) as shown:
            strategy.start(
                self._grid, sent, len(cohorts), evaluate_fn=lambda r, _: _advance(shown, r)
            )


def _local_evidence(aviary: _Aviary, canaries: int, releases: int) -> Evidence:
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

    def tap(received: Releases) -> None:
        for name, weight in weights.items():
            flat = received.arrays[name].reshape(len(received), -1).astype(np.float64)
            np.add.at(scores, received.client, flat @ weight)

    batches = np.array_split(np.arange(len(plus)), -(-len(plus) // CANARIES_A_ROUND))
    cohorts = [batch.tolist() for batch in batches] * releases
    aviary.fly("audit", plus, 1, directions, cohorts, tap=tap)
    apart = 1 if aviary.protocol.plan.config.relation == "replace_one" else 2
    return Evidence("known", releases, scores[plus], scores[~plus], apart)


def _central_evidence(aviary: _Aviary, coins: Bools, releases: int) -> list[Evidence]:
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
        Evidence(
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

    def observe(aggregate: Aggregate) -> None:
        total = flatten(aggregate.mean).astype(np.float64)
        total *= plan.expected_cohort / aggregate.clipping_norm
        scores.append([float(total[p] @ unit) for p, unit in zip(parts, units, strict=True)])

    aviary.fly(name, coins, 2 * count, unflatten(flat, drawn), cohorts, observe=observe)
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


def _advance(shown: Any, server_round: int) -> None:
    shown.update(server_round - shown.n)


def _canary_clients(coins: Bools, parts: int) -> Clients:
    """Give each canary one made-up utterance: its part, and its coin as the label."""
    index = np.arange(len(coins))
    features = np.stack([index % parts, np.full(len(coins), parts)], axis=1)
    return Clients(
        rows=index,
        features=features.astype(np.float32),
        labels=coins.astype(np.int64),
        client=index,
        validation=np.zeros(len(coins), bool),
        corpora=["audit"] * len(coins),
        speakers=[f"canary{i}" for i in index],
    )
