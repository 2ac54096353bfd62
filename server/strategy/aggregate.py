"""Aggregate a round's updates: a weighted mean, or a noised sum."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri

from fedser.client.encryption.ckks import STEP
from fedser.client.privacy.base import FALSE_ALARM, Mechanism
from fedser.client.privacy.distributed import Integers, decoded
from fedser.client.privacy.noise import below
from fedser.client.privacy.pruning import by_parameter, scatter
from fedser.client.privacy.rounded_gaussian import add_truncated, gaussian_integers, grid_step
from fedser.client.secure_aggregation.session import Refused
from fedser.common.arrays import Arrays, Floats64, l2_norm
from fedser.common.jit import as_rows, compiled, sum_of_squares
from fedser.common.seeds import NoiseSource
from fedser.server.privacy.plan import PrivacyPlan
from fedser.server.strategy.limits import ABSURD, UpdateLimit
from fedser.server.strategy.pruning import Pruning
from fedser.server.strategy.sum_noise import SumNoise
from fedser.server.transcript.transcript import RecordedUpdates

TINY = 1e-30

Unmask = Callable[[Integers, Sequence[int]], None]

COUNT_STEP = 2.0**-20
"""Smallest step of the grid for the count of adaptive clipping and its noise."""


@dataclass(frozen=True)
class Aggregate:
    """The aggregate of a round's k updates.

    Attributes
    ----------
    mean : Arrays
        Direction of the server's step; empty if nothing was received and no noise is added.
    norms : ndarray of float, shape (k,)
        L2 norms of the updates as they were received.
    noise_stddev : float
        Standard deviation of the noise on each coordinate: of the mean if the server adds the
        noise, otherwise the average of the clients' own.
    clip_fraction : float
        Share of the updates that the server scaled down.
    clipping_norm : float
        Clipping norm of the summed updates; NaN if they are averaged, not summed.
    """

    mean: Arrays
    norms: Floats64
    noise_stddev: float
    clip_fraction: float
    clipping_norm: float = math.nan


@dataclass(frozen=True)
class Received:
    """Updates of k clients in one round as the server received them, and their norms.

    Attributes
    ----------
    releases : RecordedUpdates
        The k updates.
    norms : ndarray of float64, shape (k,)
    integers : dict of str to ndarray of uint32, shape (k, ...)
        What the clients sent, if their mechanism sends integers; `releases` has their values.
    """

    releases: RecordedUpdates
    norms: Floats64
    integers: dict[str, Integers] = field(default_factory=dict)

    def only(self, rows: Sequence[int]) -> "Received":
        """Return the updates of these rows."""
        r, kept = self.releases, np.array(rows, dtype=np.int64)
        arrays = {name: array[kept] for name, array in r.arrays.items()}
        releases = RecordedUpdates(r.round[kept], r.client[kept], r.num_examples[kept], arrays)
        return Received(releases, self.norms[kept], {n: a[kept] for n, a in self.integers.items()})


class Aggregation(Protocol):
    """A rule that aggregates a round.

    Attributes
    ----------
    clipping_norm : float
        The server's clipping norm for the next round; NaN if it only checks its clients.
    turns_drawn : int
        As `SumNoise.drawn`; 0 without correlated noise.
    """

    clipping_norm: float

    @property
    def turns_drawn(self) -> int: ...  # noqa: D102

    def __call__(self, server_round: int, received: Sequence[Received], model: Arrays) -> Aggregate:
        """Aggregate the updates of a round that started from `model`; they are sorted by client."""


class _Stateless:
    """Base of the rules that keep nothing from round to round."""

    clipping_norm = math.nan
    turns_drawn = 0


class WeightedMean(_Stateless):
    """The mean of the updates, weighted by the number of utterances if it is known.

    An update above the norm that its mechanism allows is scaled down to this norm.
    """

    def __init__(self, mechanism: Mechanism) -> None:
        self._mechanism = mechanism

    def __call__(self, server_round: int, received: Sequence[Received], model: Arrays) -> Aggregate:
        """Return the weighted mean; it is empty if there is no update."""
        norms = all_norms(received)
        if not len(norms):
            return Aggregate({}, norms, math.nan, math.nan)
        sizes = np.concatenate([part.releases.num_examples for part in received])
        weights, bound = sizes / sizes.sum(), self._mechanism.norm_bound(model)
        weights *= np.minimum(1, bound / np.maximum(norms, TINY))
        noise = [self._mechanism.stddev(n) for n in sizes.tolist()]
        return Aggregate(
            mean=_weighted_sum(received, weights, model),
            norms=norms,
            noise_stddev=float(np.mean(noise)),
            clip_fraction=float((norms > bound).mean()),
        )


class NoisedMean:
    """DP-FedAvg: clip each update, sum, add noise once, divide by the expected cohort q N.

    Every client has the same weight, and the sum of an empty cohort gets the same noise. Noise that
    is correlated over rounds is DP-FTRL by matrix factorisation. With adaptive clipping the
    clipping norm follows a quantile of the norms, through a count that gets noise too. Updates and
    noise are multiples of one step and are summed as integers, so the low bits of the sum do not
    reveal more than epsilon allows.

    Parameters
    ----------
    noise : callable
        Maps a round to its source of noise; each attempt of a round must have its own source.
    turn : callable
        Maps a round to the number of this attempt among the attempts of all rounds, from 1.
    folder, federation
        As in `SumNoise`.

    References
    ----------
    McMahan et al. (2018), arXiv:1710.06963; Andrew et al. (2021), arXiv:1905.03871;
    Choquette-Choo et al. (2023), arXiv:2306.08153.
    """

    def __init__(
        self,
        plan: PrivacyPlan,
        noise: Callable[[int], NoiseSource],
        turn: Callable[[int], int] = int,
        folder: Path | None = None,
        federation: str = "",
    ) -> None:
        assert plan.config.clipping_norm is not None  # checked
        self._plan, self._noise, self._turn = plan, noise, turn
        self._sum_noise = SumNoise(plan.shared, plan.coefficients, folder, federation)
        self.clipping_norm = plan.config.clipping_norm
        plan.sum_stddev(self.clipping_norm)  # rejects a count noise that is too small

    def __call__(self, server_round: int, received: Sequence[Received], model: Arrays) -> Aggregate:
        """Return the noised sum over the expected cohort; `model` gives the shapes."""
        clip, noise = self.clipping_norm, self._noise(server_round)
        norms = all_norms(received)
        weights = np.minimum(1, below(clip) / np.maximum(norms, TINY))
        stddev, cohort = self._plan.sum_stddev(clip), self._plan.expected_cohort
        white = stddev * math.hypot(*self._plan.coefficients)
        step = grid_step(clip, sum(self._plan.shared.values()), white)
        turn = self._turn(server_round)
        drawn = self._sum_noise.draw(turn, white / step, noise)
        mean = {name: np.zeros_like(array) for name, array in model.items()}
        for name in self._plan.shared:
            total = _sum_on_grid(received, name, weights, step, model[name].size)
            total += drawn[name]
            mean[name] = (total * (step / cohort)).astype(np.float32).reshape(model[name].shape)
        self._adapt(norms, noise)
        clipped = float((norms > clip).mean()) if len(norms) else math.nan
        return Aggregate(mean, norms, self._plan.round_stddev(clip, turn) / cohort, clipped, clip)

    @property
    def turns_drawn(self) -> int:
        """Turns whose noise was drawn; 0 without correlated noise."""
        return self._sum_noise.drawn

    def _adapt(self, norms: Floats64, noise: NoiseSource) -> None:
        """Move the clipping norm towards the target quantile of the norms."""
        if self._plan.count_noise is None:
            return
        c = self._plan.config
        assert c.clip_learning_rate is not None and c.target_quantile is not None  # checked
        # Clients below the clip count 1/2 and others -1/2, so that one client changes the count by
        # 1/2 only (Andrew et al., 2021, theorem 1).
        halves = 2 * int((norms <= self.clipping_norm).sum()) - len(norms)
        # The count is a multiple of 1/2, so the step is a power of two of at most 1/2.
        step = min(0.5, max(COUNT_STEP, grid_step(1.0, 1, self._plan.count_noise)))
        drawn = int(gaussian_integers(1, self._plan.count_noise / step, noise)[0])
        count = (halves * round(0.5 / step) + drawn) * step
        below = count / self._plan.expected_cohort + 0.5
        self.clipping_norm *= math.exp(-c.clip_learning_rate * (below - c.target_quantile))


class DistributedMean(_Stateless):
    """Sum the clients' integers modulo 2^32, open the sum, and divide by the number of clients.

    The clients have clipped their updates and added shares of the noise.

    Parameters
    ----------
    unmask : callable or None
        Removes the masks from the sum (d,) of the integers of some clients, in place; raises
        Refused if the sum cannot be opened. None: the clients send no masks.
    """

    def __init__(self, plan: PrivacyPlan, unmask: Unmask | None) -> None:
        self._shared, self._sums, self._unmask = plan.shared, plan.distributed_sum, unmask
        self._clip = plan.config.clipping_norm or math.nan

    def __call__(self, server_round: int, received: Sequence[Received], model: Arrays) -> Aggregate:
        """Return the mean of the clients' updates.

        Raises
        ------
        Refused
            If too few clients answered, or if the sum cannot be opened or is not plausible.
        """
        clients = [int(c) for part in received for c in part.releases.client]
        if len(clients) < self._sums.min_clients:
            raise Refused(
                f"{len(clients)} clients answered, which is fewer than the "
                f"{self._sums.min_clients} that a sum needs"
            )
        total = np.concatenate([_sum_of_integers(received, name) for name in self._shared])
        norms = all_norms(received)
        if self._unmask is not None:
            self._unmask(total, clients)
            norms = np.full(len(clients), math.nan)  # nobody sees them
        values = decoded(total, self._sums.step)
        stddev = self._sums.share_stddev * math.sqrt(len(clients))
        self._check(values, len(clients), stddev)
        mean = {name: np.zeros_like(array) for name, array in model.items()}
        ends = np.cumsum(list(self._shared.values()))[:-1]
        for name, part in zip(self._shared, np.split(values, ends), strict=True):
            mean[name] = (part / len(clients)).astype(np.float32).reshape(model[name].shape)
        return Aggregate(mean, norms, stddev / len(clients), math.nan, self._clip)

    def _check(self, values: npt.NDArray[np.float32], clients: int, stddev: float) -> None:
        """Reject a sum that clipped updates and noise cannot give: a client sent something else."""
        largest = clients * self._clip + stddev * math.sqrt(chdtri(len(values), FALSE_ALARM))
        check_plausible(values, largest)


class EncryptedMean(_Stateless):
    """The mean of encrypted updates, weighted by the number of utterances.

    Parameters
    ----------
    open_sum : callable
        Returns the sum of what some clients have sent, with its number of values; raises Refused if
        it cannot be opened.
    pruning : Pruning
        Names the coordinates that were sent.
    limit : UpdateLimit
        Limits the mean: nobody sees the norm of a single update.
    """

    def __init__(
        self,
        open_sum: Callable[[Sequence[int], int], Floats64],
        pruning: Pruning,
        limit: UpdateLimit,
    ) -> None:
        self._open, self._pruning, self._limit = open_sum, pruning, limit

    def __call__(self, server_round: int, received: Sequence[Received], model: Arrays) -> Aggregate:
        """Return the weighted mean.

        Raises
        ------
        Refused
            If the sum cannot be opened, or if honest updates cannot give it.
        """
        clients = [int(c) for part in received for c in part.releases.client]
        sizes = np.concatenate([[0], *(part.releases.num_examples for part in received)])[1:]
        like = {n: array.reshape(1, -1) for n, array in self._pruning.like(model).items()}
        total = self._open(clients, sum(array.size for array in like.values()))
        mean = total / sizes.sum()
        largest = sizes @ self._limit.largest(clients, model) / sizes.sum()
        largest += len(clients) * STEP / sizes.sum() * math.sqrt(len(mean))  # clients round values
        check_plausible(mean, min(largest, ABSURD * max(1.0, l2_norm(model))))
        sent = by_parameter(mean.astype(np.float32)[None], like)
        full = scatter(sent, self._pruning.sent, model)
        return Aggregate(
            mean={name: array[0] for name, array in full.items()},
            norms=all_norms(received),
            noise_stddev=0.0,
            clip_fraction=math.nan,
        )


def aggregation(
    plan: PrivacyPlan,
    noise: Callable[[int], NoiseSource],
    turn: Callable[[int], int] = int,
    folder: Path | None = None,
    federation: str = "",
    unmask: Unmask | None = None,
) -> Aggregation:
    """Return the aggregation of the plan; parameters as in `NoisedMean` and `DistributedMean`."""
    if plan.config.spec.noise_at == "shares":
        return DistributedMean(plan, unmask)
    if plan.central:
        return NoisedMean(plan, noise, turn, folder, federation)
    return WeightedMean(plan.client_mechanism())


def check_plausible(values: npt.NDArray[np.floating], largest: float) -> None:
    """Reject what was opened if its norm is above the largest of honest clients; raise Refused."""
    norm = float(np.linalg.norm(values.astype(np.float64)))
    if norm > largest:
        raise Refused(
            f"the sum has a norm of {norm:.3g}, and honest updates allow {largest:.3g}: a client "
            "does not follow the protocol"
        )


def all_norms(received: Sequence[Received]) -> Floats64:
    """Return the norms of all updates, in the order of the parts."""
    return np.concatenate([np.zeros(0), *(part.norms for part in received)])


def rechunk(received: Sequence[Received], size: int) -> list[Received]:
    """Sort updates by client, and cut them into chunks of `size`.

    The sum then does not depend, to the last bit, on which node sent which update.
    """
    if not received:
        return []
    releases = [part.releases for part in received]
    order = np.argsort(np.concatenate([r.client for r in releases]))
    rounds, client, sizes = (
        np.concatenate([getattr(r, name) for r in releases])[order]
        for name in ("round", "client", "num_examples")
    )
    norms = all_norms(received)[order]
    rows = [(one, row) for one in received for row in range(len(one.norms))]
    chunks = []
    for first in range(0, len(order), size):
        part = slice(first, first + size)
        chosen = [rows[i] for i in order[part]]
        arrays = {
            name: np.stack([one.releases.arrays[name][row] for one, row in chosen])
            for name in releases[0].arrays
        }
        integers = {
            name: np.stack([one.integers[name][row] for one, row in chosen])
            for name in received[0].integers
        }
        chunk = RecordedUpdates(rounds[part], client[part], sizes[part], arrays)
        chunks.append(Received(chunk, norms[part], integers))
    return chunks


def update_norms(arrays: Arrays) -> Floats64:
    """Return the L2 norm of each of k updates over all arrays (k, ...), shape (k,).

    Squares are summed in float64, so the norm of a finite update is finite.
    """
    squares = np.zeros(len(next(iter(arrays.values()))))
    for array in arrays.values():
        _add_squares(as_rows(array), squares)
    return np.sqrt(squares)


@compiled
def _add_squares(rows: npt.NDArray[np.float32], squares: Floats64) -> None:
    for row in range(len(rows)):
        squares[row] += sum_of_squares(rows[row])


def _sum_on_grid(
    received: Sequence[Received], name: str, weights: Floats64, step: float, size: int
) -> npt.NDArray[np.int64]:
    """Return the weighted sum of one parameter over all updates, in multiples of `step`."""
    total = np.zeros(size, np.int64)
    rows = (row for part in received for row in part.releases.arrays[name])
    for row, weight in zip(rows, weights.tolist(), strict=True):
        add_truncated(total, row.reshape(-1), weight, step)
    return total


def _sum_of_integers(received: Sequence[Received], name: str) -> Integers:
    """Return the sum of one parameter over all updates modulo 2^32, flat."""
    parts = [part.integers[name].sum(axis=0, dtype=np.uint32) for part in received]
    return np.sum(parts, axis=0, dtype=np.uint32).reshape(-1)


def _weighted_sum(received: Sequence[Received], weights: Floats64, like: Arrays) -> Arrays:
    """Sum the updates in float32; use float64 for weights that are too small for float32.

    The parts are added one after another, so the sum does not depend on how clients were divided
    among nodes.
    """
    tiny = (weights != 0) & (np.abs(weights) < np.finfo(np.float32).tiny)
    usual = np.where(tiny, 0, weights).astype(np.float32)
    total = Arrays()
    ends = np.cumsum([len(part.norms) for part in received])
    for part, end in zip(received, ends.tolist(), strict=True):
        rows = slice(end - len(part.norms), end)
        for name, array in part.releases.arrays.items():
            added = np.tensordot(usual[rows], array, axes=1)
            for row in np.flatnonzero(tiny[rows]):
                added += (array[row] * weights[rows][row]).astype(np.float32)
            if name in total:
                total[name] += added
            else:
                total[name] = added
    return total or {name: np.zeros_like(array) for name, array in like.items()}
