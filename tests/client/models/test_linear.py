import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedser.client.models.base import initial_arrays, load_arrays
from fedser.client.models.linear import Linear
from fedser.client.privacy.base import NoMechanism
from fedser.client.training.compiled import CompiledTrainer
from fedser.client.training.dataset import Dataset, Examples
from fedser.client.training.engine import LocalTraining
from fedser.client.training.stacked import StackedTrainer
from fedser.client.training.task import LocalTask
from fedser.common.errors import UserError
from fedser.common.seeds import SystemEntropy
from fedser.conf.training_keys import TrainingConfig


def test_few_parameters_are_trained():
    arrays = initial_arrays(Linear(), 96, 4, seed=0)
    assert {name: array.shape for name, array in arrays.items()} == {
        "dense.0.weight": (4, 96),
        "dense.0.bias": (4,),
    }


def test_scores_are_linear():
    arrays = initial_arrays(Linear(), 5, 4, seed=0)
    model = Linear().network(5, 4)
    load_arrays(model, arrays)
    x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    expected = x @ arrays["dense.0.weight"].T + arrays["dense.0.bias"]
    np.testing.assert_allclose(model(torch.from_numpy(x)).detach(), expected, atol=1e-6)


def test_a_projection_without_coordinates_is_rejected():
    with pytest.raises(UserError, match="model.components=0"):
        Linear(components=0)


def task(algorithm, engine):
    rng = np.random.default_rng(0)
    examples = [
        Examples(
            torch.from_numpy(rng.normal(size=(n, 5))), torch.from_numpy(rng.integers(4, size=n))
        )
        for n in (3, 8)
    ]
    start = {n: a.astype(np.float64) for n, a in initial_arrays(Linear(), 5, 4, 0).items()}
    return LocalTask(
        algorithm=algorithm,
        model=Linear(components=5),
        start=start,
        training=TrainingConfig(batch_size=100, engine=engine),
        mechanism=NoMechanism(),
        data=Dataset.of(examples),
        clients=(0, 1),
        seed=0,
        stream=(),
        noises=[SystemEntropy()] * 2,
    )


@pytest.mark.parametrize("trainer", [CompiledTrainer, StackedTrainer])
@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_engines_train_clients_as_if_alone(algorithm, trainer):
    alone = LocalTraining(task(algorithm, "loop"))
    losses = alone.train(slice(None))
    updates = np.zeros(sum(array.size for array in alone.updates.values()))
    assert trainer(task(algorithm, "stacked"), updates).train(slice(None)) == pytest.approx(losses)
    flat = np.concatenate([array.ravel() for array in alone.updates.values()])
    np.testing.assert_allclose(updates, flat, atol=1e-12)


def test_a_gradient_is_that_of_the_mean_over_all_utterances():
    training = LocalTraining(made := task("fedsgd", "stacked"))
    training.train(slice(None))
    for row, examples in enumerate([made.data[0], made.data[1]]):
        weight, bias = (
            torch.from_numpy(made.start[f"dense.0.{name}"]).requires_grad_()
            for name in ("weight", "bias")
        )
        F.cross_entropy(F.linear(examples.features, weight, bias), examples.labels).backward()
        np.testing.assert_allclose(training.updates["dense.0.weight"][row], weight.grad, atol=1e-12)
        np.testing.assert_allclose(training.updates["dense.0.bias"][row], bias.grad, atol=1e-12)
