"""Collect samples to test a mechanism directly: its noise, clip, cohorts and batches.

Canaries with a known update go through the real path. The update that arrives, minus the update
that should arrive without noise, is the noise. That gives many thousand samples per release; a
test that tells a canary from its opposite gives one. A second pass with almost no noise reads the
clipping norm with high precision.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from fedser.client.privacy.local import LocalDP
from fedser.client.speakers.clients import Clients
from fedser.common.arrays import Arrays, Bools, Floats64, l2_norm
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.server.federation.cohort import cohort_sampler
from fedser.server.privacy.matrix_factorization import white_noise
from fedser.server.privacy.plan import PrivacyPlan
from fedser.server.rounds.audit_path import AuditPath, Recording, made_up_clients

SIZES = (1, 7, 40)
"""Numbers of utterances of the canaries: the noise must not depend on the number."""
SAMPLES, MIN_ROUNDS, MAX_ROUNDS = 400_000, 12, 250
"""Noise samples wanted over all tensors, and the limits of the number of rounds."""
TIMES_THE_CLIP = 3.0
LOW_NOISE = 1e-7
"""Noise multiplier of the pass that reads the clipping norm."""
SAMPLED_CLIENTS, SAMPLED_ROUNDS = 60, 400
COUNT_ROUNDS = 120


@dataclass(frozen=True)
class NoiseSamples:
    """Noise divided by its planned standard deviation.

    The samples of an honest mechanism are independent and standard normal.

    Attributes
    ----------
    of : str
        Name of the releases that hold the noise.
    tensors : dict of str to ndarray, shape (R, K, *shape)
        Samples by parameter: R rounds with K releases each.
    """

    of: str
    tensors: dict[str, Floats64]


@dataclass(frozen=True)
class Membership:
    """R independent draws from n members, each drawn with probability `rate`.

    Attributes
    ----------
    of : str
        Name of what was drawn.
    rate : float
    present : ndarray of bool, shape (R, n)
        Whether each member was drawn.
    """

    of: str
    rate: float
    present: Bools


@dataclass
class Collected:
    """Samples for the direct tests.

    Attributes
    ----------
    noises : list of NoiseSamples
    memberships : list of Membership
    norms : dict of str to float
        Norm that arrived divided by the clipping norm, by the tensor that held the whole update.
    count_noise : ndarray, shape (R,)
        Noise on the count of adaptive clipping divided by its planned standard deviation; empty
        without adaptive clipping.
    """

    noises: list[NoiseSamples] = field(default_factory=list)
    memberships: list[Membership] = field(default_factory=list)
    norms: dict[str, float] = field(default_factory=dict)
    count_noise: Floats64 = field(default_factory=lambda: np.zeros(0))


def collect(path: AuditPath) -> Collected:
    """Send canaries through the mechanism of the path's protocol and collect samples."""
    plan = path.protocol.plan
    found = Collected()
    if isinstance(plan.client_mechanism(), LocalDP):
        _collect_local(path, found)
    else:
        _collect_summed(path, found)
    if plan.central and plan.turn_rate < 1:
        found.memberships.append(_cohorts(path))
    return found


def _cohorts(path: AuditPath) -> Membership:
    """Draw cohorts, and return who is drawn when it is the turn of its group."""
    plan = path.protocol.plan
    units = [str(client) for client in range(SAMPLED_CLIENTS)]
    sampler = cohort_sampler(
        plan.config, units, plan.sampling_rate, plan.bands, path.protocol.seed, "audit-cohorts"
    )
    turns = max(2, SAMPLED_ROUNDS // plan.bands)
    drawn = np.zeros((turns * plan.bands, SAMPLED_CLIENTS), bool)
    for row in range(len(drawn)):
        drawn[row, sampler(row + 1)] = True
    by_group = drawn.reshape(turns, plan.bands, SAMPLED_CLIENTS)
    present = by_group[:, sampler.groups, np.arange(SAMPLED_CLIENTS)]
    return Membership("cohorts", plan.turn_rate, present)


def _collect_local(path: AuditPath, found: Collected) -> None:
    mechanism = path.protocol.plan.client_mechanism()
    assert isinstance(mechanism, LocalDP)
    stddev = {
        name: noise
        for group, noise in zip(mechanism.groups, mechanism.noise, strict=True)
        for name in group
    }
    zeros = {name: np.zeros_like(array) for name, array in path.model.items()}
    everybody = [list(range(len(SIZES)))] * noise_rounds(path, len(SIZES))
    recorded = path.run("audit-noise", _canaries(SIZES), zeros, everybody, "canary")
    clean = dict.fromkeys(everybody[0], zeros)
    found.noises.append(_samples("updates of canaries", recorded, [clean] * len(everybody), stddev))
    trained, expected = _trained(path)
    clipped = [
        {client: _clipped(update, mechanism) for client, update in of_round.items()}
        for of_round in expected.updates
    ]
    found.noises.append(_samples("updates of real training", trained, clipped, stddev))
    low_noise = path.protocol.plan.with_noise(noise_multiplier=LOW_NOISE)
    for name, direction in _directions(path, mechanism.groups, mechanism.clipping_norms).items():
        (sent,) = path.run(
            f"audit-norm-{name}", _canaries([1]), direction, [[0]], "canary", low_noise
        ).updates
        for group, clip in zip(mechanism.groups, mechanism.clipping_norms, strict=True):
            own = l2_norm({n: sent[0][n] for n in group}) / clip
            found.norms[name] = max(found.norms.get(name, 0.0), own)


def _collect_summed(path: AuditPath, found: Collected) -> None:
    path = path.of_cohort(len(SIZES))
    plan = path.protocol.plan
    zeros = {name: np.zeros_like(array) for name, array in path.model.items()}
    rounds = max(noise_rounds(path, 1), COUNT_ROUNDS if plan.count_noise else 0)
    everybody = list(range(len(SIZES)))
    # If the server adds the noise, every third cohort is empty: its sum must get the same noise.
    cohorts = [[] if plan.central and r % 3 == 2 else everybody for r in range(rounds)]
    recorded = path.run("audit-noise", _canaries(SIZES), zeros, cohorts, "canary")
    found.noises.append(_sums("sums of canaries", plan, recorded, [zeros] * rounds))
    if plan.count_noise is not None:
        found.count_noise = _count_noise(plan, recorded, np.array([len(c) for c in cohorts]))
    trained, expected = _trained(path)
    sums = [
        _sum_of_clipped(of_round, plan, aggregate.clipping_norm)
        for of_round, aggregate in zip(expected.updates, trained.aggregates, strict=True)
    ]
    found.noises.append(_sums("sums of real training", plan, trained, sums))
    clip, fewest = plan.config.clipping_norm, 1 if plan.central else 2
    assert clip is not None  # checked
    path = path.of_cohort(fewest)
    low_noise = path.protocol.plan.with_noise(noise_multiplier=LOW_NOISE)
    for name, direction in _directions(path, [list(plan.shared)], [clip]).items():
        cohort = list(range(fewest))
        (aggregate,) = path.run(
            f"audit-norm-{name}", _canaries([1] * fewest), direction, [cohort], "canary", low_noise
        ).aggregates
        summed = l2_norm(aggregate.mean) * low_noise.expected_cohort
        found.norms[name] = summed / fewest / clip


def _count_noise(
    plan: PrivacyPlan, recorded: Recording, present: npt.NDArray[np.int64]
) -> Floats64:
    """Compute the noise on the count from the clipping norms: all canaries are below them."""
    c, clips = plan.config, np.array([a.clipping_norm for a in recorded.aggregates])
    assert c.clip_learning_rate is not None and c.target_quantile is not None  # checked
    below = c.target_quantile - np.diff(np.log(clips)) / c.clip_learning_rate
    count = (below - 0.5) * plan.expected_cohort
    assert plan.count_noise is not None
    noise: Floats64 = (count - present[:-1] / 2) / plan.count_noise
    return noise


def _trained(path: AuditPath) -> tuple[Recording, Recording]:
    """Train made-up clients under the mechanism, and again without any mechanism."""
    algorithm, random = path.protocol.algorithm.name, np.random.default_rng(0)
    shape = (sum(SIZES), *path.utterance)
    clients = made_up_clients(
        random.standard_normal(shape, np.float32), random.integers(0, 4, sum(SIZES)), SIZES
    )
    cohorts, start = [list(range(len(SIZES)))] * 4, path.model
    plain = replace(path.protocol.plan, config=PrivacyConfig())
    trained = path.run("audit-training", clients, start, cohorts, algorithm)
    return trained, path.run("audit-training", clients, start, cohorts, algorithm, plain)


def noise_rounds(path: AuditPath, releases: int) -> int:
    """Return the number of rounds that gives enough noise samples at `releases` per round."""
    size = sum(array.size for array in path.model.values())
    return int(np.clip(SAMPLES // (size * releases), MIN_ROUNDS, MAX_ROUNDS))


def _canaries(sizes: Sequence[int]) -> Clients:
    """Return canaries of these sizes that send the whole model as update; the audit chooses it."""
    features = np.tile(np.array([[0.0, 1.0]], np.float32), (sum(sizes), 1))
    return made_up_clients(features, np.ones(sum(sizes), np.int64), sizes)


def _directions(
    path: AuditPath, groups: Sequence[Sequence[str]], clips: Sequence[float]
) -> dict[str, Arrays]:
    """Return updates at three times the clip: one in each single tensor, and one in all."""
    random, like = np.random.default_rng(1), path.model
    clip_of = {n: c for group, c in zip(groups, clips, strict=True) for n in group}
    drawn = {n: random.standard_normal(array.shape, np.float32) for n, array in like.items()}
    found = {}
    for name in (*clip_of, "all"):
        own = {n: drawn[n] * np.float32(name in (n, "all")) for n in like}
        clip = max(clips) if name == "all" else clip_of[name]
        factor = np.float32(TIMES_THE_CLIP * clip / l2_norm(own))
        found[name] = {n: array * factor for n, array in own.items()}
    return found


def _clipped(update: Arrays, mechanism: LocalDP) -> Arrays:
    """Clip in float64 by the definition: independent of the mechanism's own code."""
    found = {name: np.zeros_like(array) for name, array in update.items()}
    for group, clip in zip(mechanism.groups, mechanism.clipping_norms, strict=True):
        norm = np.sqrt(sum(np.square(update[n], dtype=np.float64).sum() for n in group))
        for name in group:
            found[name] = (update[name] * min(1.0, clip / norm)).astype(np.float32)
    return found


def _sum_of_clipped(updates: dict[int, Arrays], plan: PrivacyPlan, clip: float) -> Arrays:
    total: Arrays = {}
    for update in updates.values():
        own = {n: update[n].astype(np.float64) for n in plan.shared}
        norm = np.sqrt(sum(np.square(array).sum() for array in own.values()))
        for name, array in own.items():
            total[name] = total.get(name, 0) + array * min(1.0, clip / norm)
    return total


def _samples(
    of: str, recorded: Recording, clean: Sequence[dict[int, Arrays]], stddev: dict[str, float]
) -> NoiseSamples:
    """Return the noise of each client in each round over its standard deviation."""
    tensors = {
        name: np.stack(
            [
                np.stack([updates[c][name] - known[c][name] for c in sorted(known)])
                for updates, known in zip(recorded.updates, clean, strict=True)
            ]
        ).astype(np.float64)
        / noise
        for name, noise in stddev.items()
    }
    return NoiseSamples(of, tensors)


def _sums(of: str, plan: PrivacyPlan, recorded: Recording, clean: Sequence[Arrays]) -> NoiseSamples:
    """Return the noise on the sum of each round over its standard deviation.

    Noise that is correlated over rounds is made independent, as an observer can do.
    """
    tensors: dict[str, Floats64] = {}
    for name in plan.shared:
        rounds = [
            (a.mean[name].astype(np.float64) * plan.expected_cohort - known[name])
            / plan.cohort_stddev(a.clipping_norm)
            for a, known in zip(recorded.aggregates, clean, strict=True)
        ]
        tensors[name] = white_noise(np.stack(rounds), plan.coefficients)[:, None]
    return NoiseSamples(of, tensors)
