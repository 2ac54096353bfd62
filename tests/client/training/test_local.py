"""FedAvg and FedSGD of one client against their equations."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedser.client.models.base import load_arrays
from fedser.client.privacy.noise import GradientClip
from fedser.client.training.local import fedavg_update, fedsgd_gradient
from fedser.common.arrays import l2_norm
from fedser.common.seeds import Reproducible
from fedser.conf.training_keys import TrainingConfig
from tests.client.training.one_client import (
    MODEL,
    NO_DROPOUT,
    START,
    TRAINERS,
    clipped_gradient,
    double_model,
    examples,
    reference_adam,
    subset,
    task_of,
    train,
)


def draws(seed):
    return task_of(examples(1), seed=seed).draws


def order(seed, count, epoch=0):
    return draws(seed).orders(epoch, torch.tensor([count]))[0]


def reference_fedavg(data, config, seed, bound):
    """Adam with the same order of utterances and masks."""
    model = double_model(MODEL)
    epochs = (order(seed, len(data), epoch) for epoch in range(config.epochs))
    batches = (batch for drawn in epochs for batch in drawn.split(config.batch_size))
    gradients = (
        clipped_gradient(model, subset(data, batch), bound, masks_of(seed, step))
        for step, batch in enumerate(batches)
    )
    return reference_adam(model, config, gradients)


def masks_of(seed, step):
    return lambda layer, x: draws(seed).masks(step, len(x), MODEL.hidden)[layer][0]


@pytest.mark.parametrize("bound", [None, 0.25])
@pytest.mark.parametrize(("count", "epochs"), [(1, 1), (20, 1), (27, 2), (45, 1)])
def test_fedavg_is_adam_by_its_equations(count, epochs, bound):
    config = TrainingConfig(epochs=epochs)
    clip = None if bound is None else GradientClip(bound, "batch")
    update, loss = train(fedavg_update, examples(count), config=config, seed=5, clip=clip)
    expected = reference_fedavg(examples(count), config, 5, bound)
    for name in update:
        np.testing.assert_allclose(update[name], expected[name], atol=2e-6)
    assert 0 < loss < 5
    assert config.steps(count) == epochs * int(np.ceil(count / 20))


def test_clipping_does_not_bound_the_first_adam_step():
    """The first step is about the sign of the gradient."""
    config = TrainingConfig(weight_decay=0.0)
    norms = []
    for clip in (None, GradientClip(0.25, "batch"), GradientClip(1e-3, "batch")):
        update, _ = train(fedavg_update, examples(20), model=NO_DROPOUT, config=config, clip=clip)
        moved = np.concatenate([u.ravel() for u in update.values()])
        norms.append(np.linalg.norm(moved))
        active = np.abs(moved) > 1e-5  # units that never fire have no gradient
        np.testing.assert_allclose(np.abs(moved[active]), config.learning_rate, rtol=0.01)
    assert norms[2] == pytest.approx(norms[0], rel=0.02)


def test_fedsgd_gradient_matches_finite_differences():
    gradient, loss = train(fedsgd_gradient, examples(9), model=NO_DROPOUT)

    def mean_loss(arrays):
        network = NO_DROPOUT.network(7, 4)
        load_arrays(network, arrays)
        data = examples(9)
        with torch.no_grad():
            network.double()
            return F.cross_entropy(network(data.features.double()), data.labels).item()

    assert loss == pytest.approx(mean_loss(START), rel=1e-5)
    for name, index in (
        ("dense.0.weight", (2, 3)),
        ("dense.1.bias", (1,)),
        ("dense.2.weight", (0, 4)),
    ):
        up, down = ({n: a.copy() for n, a in START.items()} for _ in range(2))
        up[name][index] += 1e-3
        down[name][index] -= 1e-3
        slope = (mean_loss(up) - mean_loss(down)) / 2e-3
        assert gradient[name][index] == pytest.approx(slope, abs=2e-4)


def test_fedsgd_clips_the_gradient_of_one_batch():
    data = examples(50)
    gradient, _ = train(fedsgd_gradient, data, seed=1, clip=GradientClip(0.01, "batch"))
    assert l2_norm(gradient) == pytest.approx(0.01, rel=1e-3)
    whole, _ = train(fedsgd_gradient, subset(data, order(1, 50)[:20]), model=NO_DROPOUT, seed=1)
    drawn, _ = train(fedsgd_gradient, data, model=NO_DROPOUT, seed=1)
    for name in whole:
        np.testing.assert_allclose(whole[name], drawn[name], atol=1e-6)


def test_a_seed_reproduces_an_update_exactly():
    updates = [train(fedavg_update, examples(33), seed=s)[0] for s in (1, 1, 2)]
    name = "dense.0.weight"
    assert np.array_equal(updates[0][name], updates[1][name])
    assert not np.array_equal(updates[0][name], updates[2][name])


@pytest.mark.parametrize("clip", [None, GradientClip(0.25, "batch", noise_multiplier=1.0)])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_only_clipping_per_utterance_uses_the_noise_source(trainer, clip):
    noise = Reproducible(0)
    train(trainer, examples(30), clip=clip, noise=noise)
    assert noise.words(1) == Reproducible(0).words(1)
