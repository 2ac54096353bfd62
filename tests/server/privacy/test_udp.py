import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedser.conf.training_keys import TrainingConfig
from fedser.server.privacy.udp import adam_sensitivity

PARAMETERS = 286_596  # 988-256-128-4


def test_one_adam_step_has_a_sensitivity_of_two_learning_rates():
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
