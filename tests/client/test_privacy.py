import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from client.mechanism import add_gaussian, clip_by_norm, l2_norm, udp_stddev
from client.model import ModelConfig
from client.privacy import LocalDP, NoMechanism, UserLevelDP
from client.request import TrainRequest
from client.training import TrainingConfig

UDP = UserLevelDP(gradient_clip=0.25, sampling_rate=0.1, num_rounds=200, epsilon=5, delta=0.5)


@pytest.mark.parametrize(
    ("epsilon", "expected"), [(5, 0.0263), (10, 0.0132), (25, 0.0053), (50, 0.0026)]
)
def test_noise_of_the_published_formula(epsilon, expected):
    # the table of measured facts of the 2022 study, n = 20, q T = 20
    stddev = udp_stddev(
        clipping_norm=0.25,
        num_examples=20,
        sampling_rate=0.1,
        num_rounds=200,
        epsilon=epsilon,
        delta=0.5,
    )
    assert stddev == pytest.approx(expected, abs=5e-5)
    assert stddev == pytest.approx(0.025 * math.sqrt(40 * math.log(2)) / epsilon)


def test_added_noise_has_the_stated_standard_deviation_and_covers_every_weight():
    update = {"a": np.full((100, 100), 3.0, np.float32), "b": np.zeros(500, np.float32)}
    noise = UDP.protect(update, 20, np.random.default_rng(0))
    drawn = np.concatenate([(noise[n] - update[n]).ravel() for n in update])
    low, high = chi2.ppf([0.0005, 0.9995], len(drawn) - 1)
    measured = drawn.var(ddof=1) * (len(drawn) - 1) / UDP.stddev(20) ** 2
    assert low < measured < high
    assert abs(drawn.mean()) < 4 * UDP.stddev(20) / math.sqrt(len(drawn))
    assert (noise["b"] != 0).all()


def test_smaller_clients_get_more_noise():
    assert UDP.stddev(10) == pytest.approx(2 * UDP.stddev(20))


def test_without_a_mechanism_the_update_leaves_unchanged():
    update = {"a": np.ones(3, np.float32)}
    assert NoMechanism().protect(update, 5, np.random.default_rng(0)) is update
    assert NoMechanism().stddev(5) == 0 and NoMechanism().gradient_clip is None


def test_noise_follows_its_generator():
    update = {"a": np.zeros(4, np.float32)}
    first, again = (add_gaussian(update, 1.0, np.random.default_rng(7))["a"] for _ in range(2))
    np.testing.assert_array_equal(first, again)


LOCAL = LocalDP(clipping_norm=0.5, noise=0.01, shared=["a"], share_metrics=False)


def test_local_clips_the_whole_update_noises_it_and_sends_nothing_else():
    update = {"a": np.full((200, 50), 1.0, np.float32), "b": np.ones(7, np.float32)}
    sent = LOCAL.protect(update, 20, np.random.default_rng(0))
    assert (sent["b"] == 0).all()
    clipped = 0.5 / 100  # the norm of a is 100
    low, high = chi2.ppf([0.0005, 0.9995], 9999)
    noise = sent["a"] - clipped
    assert low < (noise / 0.01).var(ddof=1) * 9999 < high
    assert abs(noise.mean()) < 4 * 0.01 / 100
    assert l2_norm(sent) < LOCAL.norm_bound(update)


def test_local_lets_a_small_update_keep_its_length_and_withholds_metrics():
    quiet = replace(LOCAL, noise=1e-12)
    update = {"a": np.full(4, 0.1, np.float32), "b": np.zeros(1, np.float32)}
    np.testing.assert_allclose(
        quiet.protect(update, 1, np.random.default_rng(0))["a"], update["a"], rtol=1e-6
    )
    assert LOCAL.metrics == () and LOCAL.stddev(1) == LOCAL.stddev(99) == 0.01
    assert replace(LOCAL, share_metrics=True).metrics == ("num_examples", "loss")


magnitudes = st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False)
updates = st.lists(magnitudes, min_size=1, max_size=20)


@given(updates, st.floats(1e-6, 1e6))
def test_clipping_never_ends_above_the_norm_and_keeps_the_direction(values, bound):
    update = {"a": np.array(values, dtype=np.float32), "b": np.ones(2, np.float32)}
    clipped = clip_by_norm(update, bound)
    assert l2_norm(clipped) <= bound
    if l2_norm(update) <= bound:
        assert clipped is update
    else:
        np.testing.assert_allclose(l2_norm(clipped), bound, rtol=1e-4)


@given(updates, updates, st.floats(1e-3, 1e3))
def test_replacing_a_client_moves_its_release_by_at_most_twice_the_clip(one, other, bound):
    size = min(len(one), len(other))
    pair = [clip_by_norm({"a": np.array(v[:size], np.float32)}, bound)["a"] for v in (one, other)]
    distance = np.linalg.norm(pair[0].astype(np.float64) - pair[1])
    assert distance <= 2 * bound * (1 + 1e-6)
    assert np.linalg.norm(pair[0].astype(np.float64)) <= bound  # against nothing: add/remove


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_update_that_is_not_finite_is_never_sent(value):
    with pytest.raises(ValueError, match="not finite"):
        LOCAL.protect({"a": np.array([value], np.float32)}, 5, np.random.default_rng(0))


def test_a_zero_update_is_noised_like_any_other():
    sent = LOCAL.protect({"a": np.zeros(1000, np.float32)}, 5, np.random.default_rng(0))
    assert (sent["a"] != 0).all()


@pytest.mark.parametrize("mechanism", [UDP, NoMechanism(), LOCAL])
def test_a_request_makes_the_round_trip(mechanism):
    request = TrainRequest(
        federation="private-fold0",
        round=3,
        seed=1,
        clients=(2, 5),
        dataset="x.safetensors",
        device="cpu",
        algorithm="fedavg",
        model=ModelConfig(hidden=[8]),
        training=TrainingConfig(epochs=2),
        mechanism=mechanism,
    )
    assert TrainRequest.from_json(request.to_json()) == request
