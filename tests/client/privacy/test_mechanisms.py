import math
import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from fedser.client.models.mlp import Mlp
from fedser.client.privacy.base import NoMechanism
from fedser.client.privacy.central import CentralDP
from fedser.client.privacy.dp_sgd import DPSGD
from fedser.client.privacy.local import LocalDP
from fedser.client.privacy.mechanisms import BUILT_IN, build_mechanism, target_of
from fedser.client.privacy.noise import GradientClip, clip_factor, keep_only, udp_stddev
from fedser.client.privacy.rounded_gaussian import add_gaussian, grid_step
from fedser.client.privacy.user_level import UserLevelDP
from fedser.client.training.request import TrainRequest
from fedser.common.arrays import l2_norm
from fedser.common.seeds import Reproducible, SystemEntropy
from fedser.conf.training_keys import TrainingConfig
from tests.examples import NoNoise

UDP = UserLevelDP(gradient_clip=0.25, sampling_rate=0.1, num_rounds=200, epsilon=5, delta=0.5)
LOCAL = LocalDP(share_metrics=False, groups=[["a"]], clipping_norms=[0.5], noise=[0.01])
LAYERED = LocalDP(
    share_metrics=False,
    groups=[["a", "b"], ["c"]],
    clipping_norms=[0.5, 2.0],
    noise=[0.01, 0.03],
)
CENTRAL = CentralDP(share_metrics=False, shared=["a"])
DP_SGD = DPSGD(share_metrics=False, clipping_norm=1.0, noise_multiplier=0.7)


def is_noise(values, stddev):
    """Whether independent normals of mean zero would look like this, but for once in 1000."""
    low, high = chi2.ppf([0.0005, 0.9995], values.size - 1)
    measured = values.astype(float).var(ddof=1) * (values.size - 1) / stddev**2
    return low < measured < high and abs(values.mean()) < 4 * stddev / math.sqrt(values.size)


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


def test_noise_has_the_stated_deviation_on_every_weight():
    update = {"a": np.full((100, 100), 3.0, np.float32), "b": np.zeros(500, np.float32)}
    noised = UDP.protect(update, 20, Reproducible(0))
    drawn = np.concatenate([(noised[n] - update[n]).ravel() for n in update])
    assert is_noise(drawn, UDP.stddev(20))
    assert (noised["b"] != 0).all()


def test_smaller_clients_get_more_noise():
    assert UDP.stddev(10) == pytest.approx(2 * UDP.stddev(20))


def test_without_a_mechanism_the_update_leaves_unchanged():
    update = {"a": np.ones(3, np.float32)}
    assert NoMechanism().protect(update, 5, Reproducible(0)) is update
    assert NoMechanism().stddev(5) == 0 and NoMechanism().norm_bound(update) == math.inf


@pytest.mark.parametrize(
    ("mechanism", "gradient"),
    [
        (NoMechanism(), None),
        (UDP, GradientClip(0.25, "batch")),
        (LOCAL, None),
        (CENTRAL, None),
        (DP_SGD, GradientClip(1.0, "utterance", 0.7)),
    ],
)
def test_gradients_are_clipped_where_the_mechanism_says_so(mechanism, gradient):
    assert mechanism.gradient == gradient


@pytest.mark.parametrize("mechanism", [LOCAL, LAYERED, CENTRAL, DP_SGD])
def test_a_guarantee_withholds_metrics_unless_asked_otherwise(mechanism):
    assert mechanism.metrics == ()
    assert replace(mechanism, share_metrics=True).metrics == ("num_examples", "loss")


def test_noise_follows_its_generator():
    update = {"a": np.zeros(4, np.float32)}
    first, again = (add_gaussian(update, 1.0, Reproducible(7))["a"] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    secret = [add_gaussian(update, 1.0, SystemEntropy())["a"] for _ in range(2)]
    assert not np.array_equal(*secret)


def test_local_clips_and_noises_the_whole_update():
    update = {"a": np.full((200, 50), 1.0, np.float32), "b": np.ones(7, np.float32)}
    sent = LOCAL.protect(update, 20, Reproducible(0))
    assert (sent["b"] == 0).all()
    assert is_noise(sent["a"] - 0.5 / 100, 0.01)  # the norm of a is 100
    assert l2_norm(sent) < LOCAL.norm_bound(update)


def test_local_lets_a_small_update_keep_its_length():
    update = {"a": np.full(4, 0.1, np.float32), "b": np.zeros(1, np.float32)}
    step = grid_step(0.5, 4)
    np.testing.assert_allclose(LOCAL.protect(update, 1, NoNoise())["a"], update["a"], atol=step)
    assert LOCAL.stddev(1) == LOCAL.stddev(99) == 0.01


def test_layered_clips_and_noises_each_layer_by_itself():
    shapes = {"a": (150, 100), "b": (5000,), "c": (120, 100), "d": (8,)}
    update = {name: np.full(shape, 1.0, np.float32) for name, shape in shapes.items()}
    clipped = LAYERED.protect(update, 1, NoNoise())
    # the norm of a and b together is sqrt(20000)
    first, second = 0.5 / math.sqrt(20_000), 2.0 / math.sqrt(12_000)
    for name, expected in (("a", first), ("b", first), ("c", second), ("d", 0.0)):
        # truncated to the grid, toward zero
        step = grid_step(2.0, 12_000) if name == "c" else grid_step(0.5, 20_000)
        assert (expected - step - 1e-7 < clipped[name]).all() and (clipped[name] <= expected).all()
    assert np.hypot(l2_norm({n: clipped[n] for n in "ab"}), l2_norm({"c": clipped["c"]})) <= (
        math.hypot(0.5, 2.0)
    )
    sent = LAYERED.protect(update, 1, Reproducible(0))
    for name, stddev in (("a", 0.01), ("b", 0.01), ("c", 0.03)):
        assert is_noise(sent[name] - clipped[name], stddev)
    assert (sent["d"] == 0).all()
    noises = [(sent[n] - clipped[n]).ravel()[:5000] for n in "abc"]
    off_diagonal = np.corrcoef(noises)[np.triu_indices(3, 1)]
    assert np.abs(off_diagonal).max() < 4 / math.sqrt(5000)
    assert LAYERED.stddev(1) == 0.03


def test_layered_leaves_a_small_layer_alone_beside_a_large_one():
    update = {"a": np.full(4, 1e3), "b": np.zeros(1), "c": np.full(4, 0.1)}
    update = {name: array.astype(np.float32) for name, array in update.items()}
    sent = LAYERED.protect(update, 1, NoNoise())
    np.testing.assert_allclose(sent["c"], update["c"], atol=grid_step(2.0, 4))
    assert l2_norm({"a": sent["a"]}) == pytest.approx(0.5, abs=2 * grid_step(0.5, 5))


@pytest.mark.parametrize("mechanism", [LOCAL, LAYERED])
def test_honest_updates_stay_below_the_norm_bound(mechanism):
    rng = Reproducible(0)
    update = {n: 1e6 * np.ones(40, np.float32) for n in "abc"}
    norms = [l2_norm(mechanism.protect(update, 1, rng)) for _ in range(300)]
    bound = mechanism.norm_bound(update)
    assert max(norms) < bound < 1.3 * max(norms)
    # with a probability of 1e-9, by the chi-square distribution of each group's noise
    sizes = [sum(update[n].size for n in group) for group in mechanism.groups]
    share = 1e-9 / len(sizes)
    radii = [s * math.sqrt(chi2.isf(share, k)) for s, k in zip(mechanism.noise, sizes, strict=True)]
    assert bound == pytest.approx(math.hypot(*mechanism.clipping_norms) + math.hypot(*radii))


def test_central_sends_shared_parameters_without_noise():
    update = {"a": np.full(3, 7.0, np.float32), "b": np.ones(2, np.float32)}
    sent = CENTRAL.protect(update, 9, NoNoise())
    np.testing.assert_array_equal(sent["a"], update["a"])
    assert (sent["b"] == 0).all() and (update["b"] == 1).all()
    assert CENTRAL.stddev(1) == 0 and CENTRAL.norm_bound(update) == math.inf


def test_what_is_not_shared_is_sent_as_zeros():
    update = {"a": np.ones(2, np.float32), "b": np.ones((2, 3), np.float32)}
    kept = keep_only(update, ["b"])
    assert list(kept) == ["a", "b"] and kept["a"].tolist() == [0, 0] and kept["b"] is update["b"]


def test_private_gradients_leave_as_they_are():
    update = {"a": np.ones(2, np.float32)}
    assert DP_SGD.protect(update, 3, NoNoise()) is update
    assert DP_SGD.norm_bound(update) == math.inf


largest = float(np.finfo(np.float32).max)
magnitudes = st.floats(-largest, largest, width=32, allow_subnormal=False)
updates = st.lists(magnitudes, min_size=1, max_size=20)


@given(updates, st.floats(1e-6, 1e6))
def test_clipping_keeps_the_direction_below_the_norm(values, bound):
    update = {"a": np.array(values, dtype=np.float32), "b": np.ones(2, np.float32)}
    factor, norm = clip_factor(update, bound), l2_norm(update)
    assert factor * norm <= bound
    if norm <= bound * (1 - 1e-6):
        assert factor == 1
    else:
        assert factor == pytest.approx(bound / norm, rel=2e-6)


@given(updates, updates, st.floats(1e-3, 1e3))
def test_replacing_a_client_moves_a_release_by_two_clips(one, other, bound):
    size = min(len(one), len(other))
    mechanism = replace(LOCAL, clipping_norms=[bound], noise=[bound])
    step = grid_step(bound, size)
    sent = [mechanism.protect({"a": np.float32(v[:size])}, 1, NoNoise())["a"] for v in (one, other)]
    counts = [np.rint(array.astype(np.float64) / step).astype(object) for array in sent]
    most = Fraction(bound) / Fraction(step)  # in exact integers and fractions
    assert sum(k * k for k in counts[0].astype(int).tolist()) <= most**2  # against zeros
    assert sum(k * k for k in (counts[0] - counts[1]).astype(int).tolist()) <= (2 * most) ** 2


@pytest.mark.parametrize("mechanism", [LOCAL, LAYERED])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["a", "c"])
def test_an_update_that_is_not_finite_counts_as_zero(mechanism, value, name):
    update = {n: np.zeros(3, np.float32) for n in "abc"}
    expected = mechanism.protect(update, 5, Reproducible(0))
    update[name][1] = value
    sent = mechanism.protect(update, 5, Reproducible(0))
    for parameter, array in sent.items():
        np.testing.assert_array_equal(array, expected[parameter])


@pytest.mark.parametrize("mechanism", [LOCAL, LAYERED])
@pytest.mark.parametrize("size", [0.0, 1e-30, largest])
def test_any_finite_update_is_noised_alike(mechanism, size):
    update = {n: np.full(1500, size, np.float32) for n in "abc"}
    clipped = mechanism.protect(update, 5, NoNoise())
    sent = mechanism.protect(update, 5, Reproducible(0))
    for group, stddev, norm in zip(
        mechanism.groups, mechanism.noise, mechanism.clipping_norms, strict=True
    ):
        assert l2_norm({n: clipped[n] for n in group}) <= norm
        for name in group:
            assert is_noise(sent[name] - clipped[name], stddev)


def request(mechanism, noise_seed):
    return TrainRequest(
        federation="private-fold0",
        round=3,
        seed=1,
        clients=(2, 5),
        dataset="x.safetensors",
        device="cpu",
        algorithm="fedavg",
        model=Mlp(hidden=[8]),
        training=TrainingConfig(epochs=2),
        mechanism=mechanism,
        noise_seed=noise_seed,
        attempt=2,
    )


@pytest.mark.parametrize("noise_seed", [None, 4])
@pytest.mark.parametrize("mechanism", [UDP, NoMechanism(), LOCAL, LAYERED, CENTRAL, DP_SGD])
def test_a_request_makes_the_round_trip(mechanism, noise_seed):
    asked = request(mechanism, noise_seed)
    assert TrainRequest.from_json(asked.to_json()) == asked
    assert TrainRequest.from_json(asked.to_json(), custom=False) == asked


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_class_is_known_by_its_name(name):
    assert BUILT_IN[name].__name__ == name and "." not in name


def test_a_built_in_class_travels_by_name_and_a_user_s_by_path():
    assert target_of(LOCAL) == target_of(LAYERED) == "LocalDP"

    class LocalDP(type(LOCAL)):  # of the same name, elsewhere
        pass

    mine = LocalDP(False, [["a"]], [0.5], [0.01])
    assert target_of(mine) == f"{__name__}.{LocalDP.__qualname__}"


@pytest.mark.parametrize(
    ("target", "custom", "message"),
    [
        ("subprocess.Popen", False, "_target_=subprocess.Popen is not one of NoMechanism, User"),
        (
            "fedser.client.privacy.local.LocalDP",
            False,
            "_target_=fedser.client.privacy.local.LocalDP is not one of NoMechanism, UserLevelDP",
        ),
        ("Mechanism", False, "_target_=Mechanism is not one of NoMechanism"),
        (
            "subprocess.Popen",
            True,
            "subprocess.Popen is not a subclass of fedser.client.privacy.base.Mechanism",
        ),
        (
            "fedser.client.privacy.noise.clip_factor",
            True,
            "fedser.client.privacy.noise.clip_factor is not a subclass of",
        ),
        ("fedser.client.privacy.base.None", True, "fedser.client.privacy.base.None: no such class"),
        ("nowhere.Mechanism", True, "nowhere.Mechanism: no such class"),
        ("Mechanism", True, "Mechanism: no such class"),
    ],
)
def test_only_mechanisms_are_built(target, custom, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build_mechanism({"_target_": target}, custom)


def test_a_node_with_own_data_builds_no_class_of_a_user():
    asked = request(NoMechanism(), None).to_json().replace("NoMechanism", "subprocess.Popen")
    with pytest.raises(ValueError, match="subprocess.Popen is not one of NoMechanism"):
        TrainRequest.from_json(asked, custom=False)


def test_a_mechanism_with_other_fields_is_rejected():
    with pytest.raises(ValueError, match="_target_=DPSGD: .* argument 'sigma'"):
        build_mechanism({"_target_": "DPSGD", "sigma": 1})
