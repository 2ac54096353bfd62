import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from client.privacy import UserLevelDP
from client.training import TrainingConfig
from server.accountant import adam_sensitivity, release_mu, worst_epsilon
from server.gaussian import gaussian_epsilon, gaussian_mu

PARAMETERS = 286_596  # 988-256-128-4


def udp(epsilon: float) -> UserLevelDP:
    return UserLevelDP(0.25, sampling_rate=0.1, num_rounds=200, epsilon=epsilon, delta=0.5)


@pytest.mark.parametrize(
    ("nominal", "claimed", "clipped", "as_coded"),
    [
        (5, 26.4, 721, 4_522),
        (10, 71, 2_597, 17_314),
        (25, 315, 15_150, 105_306),
        (50, 1_082, 59_156, 417_348),
    ],
)
def test_nominal_against_real_epsilon(nominal, claimed, clipped, as_coded):
    # independent exact composition for n = 20, 20 releases, replace-one, delta 1e-5
    stddev = udp(nominal).stddev(20)
    for sensitivity, expected in ((0.025, claimed), (0.2, clipped)):
        mu = sensitivity / stddev * math.sqrt(20)
        assert gaussian_epsilon(mu, 1e-5) == pytest.approx(expected, rel=0.01)
    mu = release_mu(udp(nominal), None, 20, PARAMETERS, "fedavg", TrainingConfig())
    assert worst_epsilon([mu], [0], {0: 20}, 1e-5) == pytest.approx(as_coded, rel=0.01)


@given(st.floats(0.01, 20), st.floats(1e-9, 0.4))
@settings(max_examples=100, deadline=None)
def test_epsilon_solves_the_closed_form(mu, delta):
    epsilon = gaussian_epsilon(mu, delta)
    reached = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
    if epsilon == 0:
        assert reached <= delta
    else:
        assert reached == pytest.approx(delta, rel=1e-4, abs=1e-13)


def test_epsilon_at_the_edges():
    assert gaussian_epsilon(0, 1e-5) == 0
    assert gaussian_epsilon(math.inf, 1e-5) == math.inf
    assert worst_epsilon([], [], {}, 1e-5) == 0
    assert worst_epsilon([1.0], [0], {}, 1e-5) == 0
    assert worst_epsilon([math.inf], [0], {}, 1e-5) == math.inf


def test_epsilon_of_a_huge_mu_joins_on_and_grows():
    below, above = gaussian_epsilon(9_999.9, 1e-5), gaussian_epsilon(10_000.1, 1e-5)
    assert above == pytest.approx(below, rel=1e-4)
    assert below < above < gaussian_epsilon(1e9, 1e-5) == pytest.approx(5e17, rel=1e-6)


def test_the_unit_that_spent_most_counts():
    ledger = {0: 4, 1: 1, 2: 3}
    assert worst_epsilon([1.0, 2.0, 0.5], [0, 1, 2], ledger, 1e-5) == gaussian_epsilon(2, 1e-5)
    # a speaker who holds clients 0 and 1 spends 4 * 1 + 1 * 4 = 8
    speakers = ["a", "a", "b"]
    spent = worst_epsilon([1.0, 2.0, 0.5], speakers, ledger, 1e-5)
    assert spent == pytest.approx(gaussian_epsilon(np.sqrt(8), 1e-5))


@pytest.mark.parametrize(
    ("epsilon", "noise_multiplier"), [(1, 33.4), (2, 17.8), (4, 9.7), (8, 5.4), (16, 3.1)]
)
def test_noise_for_twenty_releases_at_an_epsilon(epsilon, noise_multiplier):
    # reference values at delta 1e-5, in units of the clip C where the sensitivity is 2 C
    needed = 2 * math.sqrt(20) / gaussian_mu(epsilon, 1e-5)
    assert needed == pytest.approx(noise_multiplier, abs=0.06)


@pytest.mark.parametrize(("noise_multiplier", "epsilon"), [(1, 28.4), (2, 11.5), (4, 5.0)])
def test_epsilon_of_twenty_releases_whose_sender_is_known(noise_multiplier, epsilon):
    found = gaussian_epsilon(math.sqrt(20) / noise_multiplier, 1e-5)
    assert found == pytest.approx(epsilon, rel=0.01)


@given(st.floats(0.01, 50), st.floats(1e-9, 0.4))
@settings(max_examples=60, deadline=None)
def test_calibration_makes_the_round_trip_from_below(epsilon, delta):
    reached = gaussian_epsilon(gaussian_mu(epsilon, delta), delta)
    assert reached <= epsilon
    assert reached == pytest.approx(epsilon, rel=1e-6, abs=1e-6)


def test_adam_sensitivity_of_one_step_is_twice_the_learning_rate_a_weight():
    # 0.535 for 988 inputs: measured on the published code
    assert adam_sensitivity(PARAMETERS, 1, TrainingConfig()) == pytest.approx(0.535, abs=5e-4)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=6), st.integers(-6, 6))
@settings(max_examples=60, deadline=None)
def test_no_gradients_move_adam_beyond_the_bound(gradients, exponent):
    config = TrainingConfig()
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam(
        [weight],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.adam_epsilon,
    )
    for gradient in gradients:
        weight.grad = torch.tensor([gradient * 10.0**exponent], dtype=torch.float64)
        adam.step()
    bound = adam_sensitivity(1, len(gradients), config) / 2
    assert abs(weight.item()) <= bound * (1 + 1e-9)


def test_the_adam_bound_of_a_step_is_attained():
    # Cauchy and Schwarz is tight where g_i is proportional to a_i / b_i.
    config, steps = TrainingConfig(), 4
    age = np.arange(steps)[::-1]
    worst = (config.beta1 / config.beta2) ** age
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam(
        [weight], lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=1e-30
    )
    before = 0.0
    for gradient in worst:
        before = weight.item()
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        adam.step()
    bound = adam_sensitivity(1, steps, config) - adam_sensitivity(1, steps - 1, config)
    assert 2 * abs(weight.item() - before) == pytest.approx(bound, rel=1e-6)


def test_a_clipped_gradient_moves_by_twice_the_clip():
    mu = release_mu(udp(5), None, 20, PARAMETERS, "fedsgd", TrainingConfig())
    assert mu == pytest.approx(0.5 / udp(5).stddev(20))
