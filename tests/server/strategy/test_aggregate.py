import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, norm

from fedser.client.privacy.base import NoMechanism
from fedser.client.privacy.central import CentralDP
from fedser.client.privacy.local import LocalDP
from fedser.client.privacy.rounded_gaussian import grid_step
from fedser.common.errors import UserError
from fedser.common.seeds import Reproducible
from fedser.server.privacy.plan import PrivacyPlan
from fedser.server.strategy.aggregate import (
    NoisedMean,
    Received,
    WeightedMean,
    aggregation,
    update_norms,
)
from fedser.server.transcript.transcript import RecordedUpdates
from tests.examples import ADAPTIVE, CENTRAL, LOCAL, UDP, NoNoise, word_of

SHAPES = {"w": (4, 3), "b": (4,), "kept": (5,)}
SHARED = {"w": 12, "b": 4}
MODEL = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
CLIP = 0.5
FIXED = replace(CENTRAL, epsilon=None, noise_multiplier=1.5, clipping_norm=CLIP)
MOVING = replace(ADAPTIVE, epsilon=None, noise_multiplier=1.5, clipping_norm=CLIP)
LARGEST = float(np.finfo(np.float32).max)


def plan(config=FIXED, rate=0.25, clients=20, shared=SHARED):
    return PrivacyPlan(config, rate, 10, clients, shared=shared)


def noised_mean(config=FIXED, noise=None, **kwargs):
    return NoisedMean(plan(config, **kwargs), lambda r: noise or NoNoise())


def received(updates, sizes=None):
    """Received updates over the shared parameters, one flat row a client."""
    flat = np.asarray(updates, np.float32).reshape(-1, 16)
    arrays = {
        "w": flat[:, :12].reshape(-1, 4, 3),
        "b": flat[:, 12:],
        "kept": np.zeros((len(flat), 5), np.float32),
    }
    count = np.arange(len(flat))
    sizes = np.ones(len(flat), np.int64) if sizes is None else np.asarray(sizes)
    parts = []
    for rows in (slice(0, 3), slice(3, None)):  # a server receives them in chunks
        own = {name: array[rows] for name, array in arrays.items()}
        part = RecordedUpdates(np.full(len(count[rows]), 1), count[rows], sizes[rows], own)
        parts.append(Received(part, update_norms(own)))
    return parts


def flat(mean):
    return np.concatenate([mean["w"].ravel(), mean["b"]]).astype(np.float64)


def directions(count, lengths, seed=0):
    drawn = np.random.default_rng(seed).normal(size=(count, 16))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True) * np.reshape(lengths, (-1, 1))


class Numbered:
    """A noise source that gives 1s for the sum and then a chosen number for the count."""

    def __init__(self, count):
        self.count = count

    def words(self, count):
        return np.full(count, word_of(self.count if count == 1 else 1.0), np.uint64)


def test_mean_is_clipped_sum_over_expected_cohort():
    updates = directions(3, [0.1, 0.5001, 40.0])
    found = noised_mean()(1, received(updates), MODEL)
    scaled = [u * min(1, CLIP / np.linalg.norm(u)) for u in updates]
    # three clients came, five were expected of 20 at a rate of a quarter
    step = grid_step(CLIP, 16)  # each update is truncated to its multiples
    np.testing.assert_allclose(flat(found.mean), np.sum(scaled, axis=0) / 5, atol=3 * step / 5)
    assert found.clip_fraction == pytest.approx(2 / 3) and found.clipping_norm == CLIP
    assert list(found.mean) == list(MODEL)
    for name, array in found.mean.items():
        assert array.shape == SHAPES[name] and array.dtype == np.float32


@pytest.mark.parametrize("cohort", [0, 1, 5, 20])
def test_sum_is_divided_by_the_expected_cohort(cohort):
    update = np.full((cohort, 16), 0.01)
    found = noised_mean()(1, received(update), MODEL)
    step = grid_step(CLIP, 16)
    np.testing.assert_allclose(flat(found.mean), cohort * 0.01 / 5, atol=cohort * step / 5)
    assert found.noise_stddev == pytest.approx(1.5 * CLIP / 5)


def test_updates_above_the_clip_are_scaled_to_it():
    for length, expected in ((0.499999, 0.499999), (0.6, CLIP), (1e6, CLIP)):
        found = noised_mean()(1, received(directions(1, [length])), MODEL)
        assert np.linalg.norm(flat(found.mean)) * 5 == pytest.approx(expected, rel=2e-3)


def test_rounding_does_not_exceed_the_clip():
    for update in directions(300, np.geomspace(CLIP, 1e6, 300)):
        found = noised_mean()(1, received(update), MODEL)
        assert np.linalg.norm(flat(found.mean)) * 5 <= CLIP


@pytest.mark.parametrize("size", [0.0, 1e-40, 1e-3, 1e30, LARGEST])
def test_any_finite_update_adds_one_clip_at_most(size):
    updates = np.full((2, 16), size)
    found = noised_mean()(1, received(updates), MODEL)
    length = np.linalg.norm(flat(found.mean)) * 5
    assert length == pytest.approx(2 * min(CLIP, size * 4), abs=2 * CLIP / 1000)
    assert length <= 2 * CLIP * (1 + 1e-5)
    assert all(np.isfinite(array).all() for array in found.mean.values())


def added_noise(config=FIXED, rounds=200, updates=None, **kwargs):
    """Return what each round with seeded noise adds to a round without noise."""
    updates = np.zeros((0, 16)) if updates is None else updates
    clean = flat(noised_mean(config, **kwargs)(1, received(updates), MODEL).mean)
    noised = NoisedMean(plan(config, **kwargs), lambda r: Reproducible(0, "sum noise", r))
    clips = [noised.clipping_norm]
    found = []
    for r in range(rounds):
        found.append(flat(noised(r, received(updates), MODEL).mean) - clean)
        noised.clipping_norm = clips[0]
    return np.array(found)


def check_noise(drawn, stddev):
    low, high = chi2.ppf([0.0005, 0.9995], drawn.size - 1)
    assert low < drawn.var(ddof=1) * (drawn.size - 1) / stddev**2 < high
    assert abs(drawn.mean()) < norm.isf(0.0005) * stddev / math.sqrt(drawn.size)


@pytest.mark.parametrize("cohort", [0, 3])
@pytest.mark.parametrize("relation", ["zero_out", "replace_one"])
@pytest.mark.parametrize("config", [FIXED, MOVING])
def test_any_cohort_gets_the_accounted_noise_once(config, relation, cohort):
    config = replace(config, vantage="sum", relation=relation)
    steps = 2 if relation == "replace_one" else 1
    multiplier = 1.5
    if config.mechanism == "central_adaptive":
        # five clients are expected, so the count gets the least noise there is by default:
        # it costs a quarter of the budget, and three quarters are left
        multiplier /= math.sqrt(0.75)
    drawn = added_noise(config, updates=directions(cohort, np.full(cohort, 3.0)))
    check_noise(drawn, multiplier * steps * CLIP / 5)
    across = np.corrcoef(drawn[:100].ravel(), drawn[100:].ravel())[0, 1]
    assert abs(across) < 4 / math.sqrt(drawn.size / 2)


def test_noise_is_equal_on_every_shared_coordinate():
    drawn = added_noise(rounds=2000)
    ratios = drawn.std(axis=0) / (1.5 * CLIP / 5)
    np.testing.assert_allclose(ratios, 1, atol=4.5 / math.sqrt(2 * 2000))
    off_diagonal = np.corrcoef(drawn.T)[np.triu_indices(16, 1)]
    assert np.abs(off_diagonal).max() < 4.5 / math.sqrt(2000)


def test_unshared_layers_get_no_noise_and_do_not_move():
    noised = NoisedMean(plan(), Reproducible)
    for updates in (np.zeros((0, 16)), np.ones((2, 16))):
        mean = noised(1, received(updates), MODEL).mean
        assert (mean["kept"] == 0).all() and (flat(mean) != 0).all()


def test_an_empty_cohort_is_noised_and_has_no_clip_fraction():
    found = NoisedMean(plan(), Reproducible)(1, received([]), MODEL)
    assert (flat(found.mean) != 0).all() and math.isnan(found.clip_fraction)
    assert found.noise_stddev == pytest.approx(1.5 * CLIP / 5)
    assert flat(found.mean).std() == pytest.approx(found.noise_stddev, rel=0.8)


lengths = st.floats(0, 1e3)


@given(
    st.integers(0, 2**32 - 1),
    st.lists(lengths, min_size=1, max_size=8),
    st.integers(0, 7),
    st.lists(st.integers(1, 10_000), min_size=8, max_size=8),
    st.sampled_from([FIXED, MOVING]),
)
@settings(max_examples=150, deadline=None)
def test_no_client_moves_the_sum_by_more_than_the_clip(seed, lengths, gone, sizes, config):
    """For any updates of the others, and any claimed numbers of utterances."""
    gone %= len(lengths)
    rng = np.random.default_rng(seed)
    updates = directions(len(lengths), lengths, seed)
    if rng.random() < 0.5:  # all updates point the same way
        updates = np.abs(updates)
    sizes = np.array(sizes[: len(lengths)])
    left = np.arange(len(lengths)) != gone
    both = (received(updates, sizes), received(updates[left], sizes[left]))
    sums = [flat(noised_mean(config)(1, seen, MODEL).mean) * 5 for seen in both]
    moved = np.linalg.norm(sums[0] - sums[1])
    # beside the clip, the sums are rounded to float32
    assert moved <= CLIP * (1 + 1e-5) + 1e-6 * np.linalg.norm(sums[0])
    if lengths[gone] <= CLIP:
        assert moved <= lengths[gone] * (1 + 1e-5) + 1e-6 * np.linalg.norm(sums[0]) + 1e-7


@given(
    st.lists(lengths, min_size=1, max_size=8),
    st.integers(0, 7),
    st.floats(-3, 3, width=32),
    lengths,
)
@settings(max_examples=150, deadline=None)
def test_one_client_moves_the_count_by_a_half(lengths, gone, noise, other):
    """The count is read from the next clip: it is used for nothing else."""
    gone %= len(lengths)
    replaced = [*lengths[:gone], other, *lengths[gone + 1 :]]

    def count(of):
        moving = noised_mean(MOVING, Numbered(noise))
        moving(1, received(np.outer(of, np.eye(16)[0])), MODEL)
        return -math.log(moving.clipping_norm / CLIP) / 0.2 * 5

    assert abs(count(lengths) - count(lengths[:gone] + lengths[gone + 1 :])) == pytest.approx(0.5)
    assert abs(count(lengths) - count(replaced)) <= 1 + 1e-9


@pytest.mark.parametrize(("lengths", "below"), [([0.1, 0.2, 3, 9], 2), ([9.0] * 5, 0), ([0.1], 1)])
def test_clip_moves_by_the_noised_share_below_it(lengths, below):
    quantile = replace(MOVING, target_quantile=0.3)
    moving = noised_mean(quantile, Numbered(0.25))
    moving(1, received(directions(len(lengths), lengths)), MODEL)
    # equations of Andrew et al. (2021), counted from one half, over five expected clients
    share = (below - len(lengths) / 2 + 0.25 * plan(MOVING).count_noise) / 5 + 0.5
    assert moving.clipping_norm == pytest.approx(CLIP * math.exp(-0.2 * (share - 0.3)))


@pytest.mark.parametrize(("length", "grows"), [(100.0, True), (1e-3, False)])
def test_a_small_clip_grows_and_a_large_clip_shrinks(length, grows):
    moving = noised_mean(MOVING)
    clips = []
    for _ in range(5):
        clips.append(moving.clipping_norm)
        moving(1, received(directions(5, [length] * 5)), MODEL)
    assert clips == sorted(clips, reverse=not grows) and len(set(clips)) == 5


@pytest.mark.parametrize("quantile", [0.5, 0.8])
@pytest.mark.parametrize("start", [0.01, 50.0])
def test_the_clip_finds_its_quantile_of_the_norms(start, quantile):
    rng = np.random.default_rng(0)
    config = replace(
        MOVING,
        noise_multiplier=0.05,
        count_noise=0.2,
        clipping_norm=start,
        target_quantile=quantile,
    )
    moving = NoisedMean(plan(config, 0.5, 200), lambda r: Reproducible(0, "sum noise", r))
    clips = []
    for r in range(300):
        present = int((rng.random(200) < 0.5).sum())
        norms = np.exp(rng.normal(size=present))  # median 1
        moving(r, received(directions(present, norms)), MODEL)
        clips.append(moving.clipping_norm)
    reached = np.exp(np.mean(np.log(clips[150:])))
    assert reached == pytest.approx(math.exp(norm.ppf(quantile)), rel=0.05)


def test_noise_follows_the_clip_that_was_applied_in_the_round():
    moving = noised_mean(MOVING, Numbered(0.0))
    for _ in range(3):
        clip = moving.clipping_norm
        found = moving(1, received(directions(5, [100.0] * 5)), MODEL)
        assert found.clipping_norm == clip < moving.clipping_norm
        assert found.noise_stddev == pytest.approx(plan(MOVING).sum_stddev(clip) / 5)
        # the source gives 1s: what is above the clipped sum is one standard deviation
        scaled = directions(5, [clip] * 5).sum(axis=0)
        added = flat(found.mean) * 5 - scaled
        np.testing.assert_allclose(
            added, plan(MOVING).sum_stddev(clip), rtol=1e-5, atol=5 * grid_step(clip, 16)
        )


def test_a_fixed_clip_stays_where_it_is():
    fixed = noised_mean(FIXED, Numbered(3.0))
    fixed(1, received(directions(5, [100.0] * 5)), MODEL)
    assert fixed.clipping_norm == CLIP


def test_the_count_and_the_sum_are_noised_independently():
    moving = NoisedMean(plan(MOVING), lambda r: Reproducible(0, "sum noise", r))
    sums, counts = [], []
    for r in range(1500):
        sums.append(flat(moving(r, received([]), MODEL).mean))
        counts.append(-math.log(moving.clipping_norm / CLIP) / 0.2 * 5)
        moving.clipping_norm = CLIP
    check_noise(np.array(counts), plan(MOVING).count_noise)
    for column in np.array(sums).T:
        assert abs(np.corrcoef(column, counts)[0, 1]) < 4.5 / math.sqrt(1500)


def test_too_small_count_noise_is_rejected_at_the_start():
    with pytest.raises(UserError, match=r"privacy\.count_noise=0\.5 alone spends the whole"):
        noised_mean(replace(MOVING, count_noise=0.5))


def test_weighted_mean_weighs_by_utterances_and_clips(monkeypatch):
    updates = directions(3, [0.2, 2.0, 8.0])
    weighted = WeightedMean(NoMechanism())
    found = weighted(1, received(updates, [1, 2, 7]), MODEL)
    np.testing.assert_allclose(flat(found.mean), np.array([0.1, 0.2, 0.7]) @ updates, rtol=1e-5)
    assert found.clip_fraction == 0 and found.noise_stddev == 0
    assert math.isnan(found.clipping_norm)
    monkeypatch.setattr(NoMechanism, "norm_bound", lambda self, model: 1.0)
    found = weighted(1, received(updates, [1, 2, 7]), MODEL)
    scaled = updates * [[1], [1 / 2], [1 / 8]]
    np.testing.assert_allclose(flat(found.mean), np.array([0.1, 0.2, 0.7]) @ scaled, rtol=1e-5)
    assert found.clip_fraction == pytest.approx(2 / 3)
    assert all(array.dtype == np.float32 for array in found.mean.values())


def test_a_forged_update_counts_as_the_largest_honest_one():
    mechanism = LocalDP(False, [["w", "b"]], [CLIP], [0.1])
    bound = mechanism.norm_bound(MODEL)
    found = WeightedMean(mechanism)(1, received(np.full((1, 16), LARGEST)), MODEL)
    assert np.linalg.norm(flat(found.mean)) == pytest.approx(bound, rel=1e-5)
    assert found.clip_fraction == 1 and found.noise_stddev == pytest.approx(0.1)


def test_weighted_mean_of_no_update_is_empty():
    found = WeightedMean(NoMechanism())(1, received([]), MODEL)
    assert found.mean == {} and math.isnan(found.noise_stddev) and math.isnan(found.clip_fraction)


def test_weighted_mean_states_the_noise_of_its_clients():
    udp = PrivacyPlan(UDP, 0.1, 200).client_mechanism()
    found = WeightedMean(udp)(1, received(np.ones((2, 16)), [10, 20]), MODEL)
    assert found.noise_stddev == pytest.approx((udp.stddev(10) + udp.stddev(20)) / 2)


def test_norms_cover_all_arrays_of_an_update():
    updates = directions(4, [0.0, 1e-20, 3.0, 1e30])
    found = update_norms({"w": np.asarray(updates, np.float32)})
    np.testing.assert_allclose(found, [0, 1e-20, 3, 1e30], rtol=1e-6)
    assert update_norms({"w": np.zeros((0, 3), np.float32)}).shape == (0,)


@pytest.mark.parametrize("config", [FIXED, MOVING])
def test_the_plan_chooses_the_aggregation(config):
    central = aggregation(plan(config), Reproducible)
    assert isinstance(central, NoisedMean)
    local = aggregation(plan(replace(LOCAL, epsilon=None, noise_multiplier=1.0)), Reproducible)
    assert isinstance(local, WeightedMean)
    assert isinstance(plan(config).client_mechanism(), CentralDP)


def test_noise_comes_only_from_the_source_of_the_round():
    asked = []

    def noise(server_round):
        asked.append(server_round)
        return Reproducible(0, server_round)

    central = aggregation(plan(), noise)
    first, again, other = (flat(central(r, received([]), MODEL).mean) for r in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert asked == [1, 1, 2] and not np.array_equal(first, other)
    silent = aggregation(plan(MOVING), lambda r: NoNoise())
    assert (flat(silent(1, received([]), MODEL).mean) == 0).all()  # there is no other source


def test_sums_are_multiples_of_the_step():
    step = grid_step(CLIP, 16)
    found = NoisedMean(plan(), Reproducible)(1, received(directions(9, [3.0] * 9)), MODEL)
    counts = flat(found.mean) * 5 / step
    np.testing.assert_allclose(counts, np.rint(counts), rtol=1e-6)  # of float32, after division


def test_sum_is_exact_over_truncated_updates():
    updates = directions(9, np.geomspace(0.01, 100, 9))
    step = grid_step(CLIP, 16)
    norms = np.linalg.norm(np.float32(updates).astype(float), axis=1)
    factors = np.minimum(1, CLIP * (1 - 1e-6) / norms)
    rows = np.trunc(np.float32(updates) * factors[:, None] / step)
    assert (np.square(rows).sum(axis=1) <= (CLIP / step) ** 2).all()
    found = noised_mean()(1, received(updates), MODEL)
    expected = (rows.sum(axis=0) * (step / 5)).astype(np.float32)
    np.testing.assert_array_equal(flat(found.mean), expected)
