import math

import numpy as np
import pytest
import torch

from fedser.client.app import app as client_app
from fedser.client.privacy.base import Mechanism, NoMechanism
from fedser.client.privacy.central import CentralDP
from fedser.client.privacy.local import LocalDP
from fedser.client.privacy.user_level import UserLevelDP
from fedser.conf.training_keys import TrainingConfig
from fedser.server.federation.federation import Federation
from fedser.server.grids.local import LocalGrid
from fedser.server.rounds.federate import federate
from fedser.server.strategy.limits import ABSURD, OUTLIER, SCALED_DOWN, UpdateLimit, adam_reach
from tests.examples import ADAPTIVE, ATTENTION, CENTRAL, DP_SGD, LOCAL, MLP, UDP, federation

MODEL = {"w": np.full((2, 3), 0.5, np.float32), "b": np.zeros(2, np.float32)}
UDP_MECHANISM = UserLevelDP(0.25, 0.1, 10, 5.0, 0.5)


def adam(gradients, config):
    """Return how far PyTorch's Adam moves a weight."""
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam(
        [weight], lr=1.0, betas=(config.beta1, config.beta2), eps=config.adam_epsilon
    )
    for gradient in gradients:
        weight.grad = torch.tensor([float(gradient)], dtype=torch.float64)
        optimiser.step()
    return abs(float(weight.detach()))


@pytest.mark.parametrize("betas", [(0.9, 0.98), (0.9, 0.999), (0.0, 0.5), (0.99, 0.9)])
@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_no_gradients_move_adam_beyond_its_reach(betas, steps):
    config = TrainingConfig(beta1=betas[0], beta2=betas[1], adam_epsilon=1e-300)
    rng = np.random.default_rng(0)
    growing = [betas[1] ** -(at / 2) for at in range(steps)]
    sequences = [np.ones(steps), growing, growing[::-1], 10.0 ** np.arange(steps)]
    sequences += [rng.standard_cauchy(steps) for _ in range(20)]
    reach = adam_reach(config, steps)
    found = [adam(gradients, config) for gradients in sequences]
    assert max(found) <= reach * (1 + 1e-9)
    if steps == 1:  # it moves by the learning rate, whatever the gradient is
        assert reach == pytest.approx(1) and min(found) == pytest.approx(1)


def test_the_reach_is_infinite_without_valid_decay_rates():
    assert adam_reach(TrainingConfig(beta2=0.0), 1) == math.inf
    assert adam_reach(TrainingConfig(beta1=1.0), 1) == math.inf


def limit(mechanism=None, algorithm="fedavg", sizes=(4, 40)):
    return UpdateLimit(algorithm, TrainingConfig(), mechanism or NoMechanism(), sizes)


def test_limits_grow_with_steps_and_noise():
    plain = limit().largest([0, 1], MODEL)
    reach = adam_reach(TrainingConfig(), 2)
    assert plain[0] == pytest.approx(5e-4 * math.sqrt(8), rel=2e-3)
    assert plain[1] == pytest.approx(5e-4 * math.sqrt(8) * reach, rel=2e-3)
    noised = limit(UDP_MECHANISM).largest([0, 1], MODEL) - plain
    stddevs = [UDP_MECHANISM.stddev(n) for n in (4, 40)]
    assert (noised >= 6 * np.array(stddevs)).all()
    assert (limit(CentralDP(False, ["w"])).largest([0, 1], MODEL) == plain).all()


def test_limit_follows_the_bound_of_the_mechanism():
    local = LocalDP(False, [["w", "b"]], [0.1], [0.2])
    bound = SCALED_DOWN * local.norm_bound(MODEL)
    assert limit(local).largest([0, 1], MODEL).tolist() == [bound, bound]

    class Own(Mechanism):
        pass

    assert limit(Own()).largest([0], MODEL).tolist() == [math.inf]
    assert limit(algorithm="fedsgd").largest([0], MODEL).tolist() == [math.inf]


def test_others_never_decide_under_a_central_guarantee():
    central = limit(CentralDP(False, ["w"]), algorithm="fedsgd", sizes=[4] * 4)
    assert central.too_large(range(4), np.array([1.0, 1.0, 1.0, 9 * OUTLIER]), MODEL) == {}
    assert set(central.too_large(range(4), np.array([1.0, 1.0, 1.0, 2 * ABSURD]), MODEL)) == {3}


def test_a_gradient_is_compared_with_the_cohort_and_the_model():
    sgd = limit(algorithm="fedsgd", sizes=[4] * 5)
    norm = math.sqrt(6 * 0.25)
    assert sgd.too_large(range(5), np.array([1e-6, 1e-6, 1e-6, 900 * norm, 0.0]), MODEL) == {}
    far = np.array([1.0, 2.0, 3.0, 4 * OUTLIER, 1.0])
    ((row, (bound, why)),) = sgd.too_large(range(5), far, MODEL).items()
    assert (row, bound) == (3, 2 * OUTLIER) and "median" in why
    two = np.array([1.0, 0.9 * ABSURD * norm])
    assert sgd.too_large([0, 1], two, MODEL) == {}
    assert set(sgd.too_large([0, 1], two * 2, MODEL)) == {1}


@pytest.mark.parametrize(
    "privacy", [None, UDP, LOCAL, CENTRAL, ADAPTIVE, DP_SGD], ids=lambda p: p and p.mechanism
)
@pytest.mark.parametrize("model", [MLP, ATTENTION], ids=lambda m: m.name)
@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_no_honest_update_is_rejected(privacy, model, algorithm, tmp_path):
    if (privacy is DP_SGD) and algorithm == "fedsgd":
        privacy = None
    made: Federation = federation(
        tmp_path / "t", rounds=6, fraction=1.0, privacy=privacy, model=model, algorithm=algorithm
    )
    outcome = federate(LocalGrid(client_app), made, tmp_path, "cpu")
    assert [row.rejections for row in outcome.rounds] == [{}] * 6
