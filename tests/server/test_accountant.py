import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from client.privacy import UserLevelDP
from client.training import TrainingConfig
from server.accountant import adam_sensitivity, gaussian_epsilon, udp_mu, worst_epsilon

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
    mu = udp_mu(udp(nominal), 20, PARAMETERS, "fedavg", TrainingConfig())
    assert worst_epsilon({0: mu}, {0: 20}, 1e-5) == pytest.approx(as_coded, rel=0.01)


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
    assert worst_epsilon({}, {}, 1e-5) == 0
    assert worst_epsilon({0: 1.0, 1: 1.0}, {0: 4, 1: 1}, 1e-5) == gaussian_epsilon(2, 1e-5)


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
    mu = udp_mu(udp(5), 20, PARAMETERS, "fedsgd", TrainingConfig())
    assert mu == pytest.approx(0.5 / udp(5).stddev(20))
