import math

import numpy as np
import pytest
from scipy.stats import chi2

from client.mechanism import add_gaussian, udp_stddev
from client.model import ModelConfig
from client.privacy import NoMechanism, UserLevelDP
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


@pytest.mark.parametrize("mechanism", [UDP, NoMechanism()])
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
