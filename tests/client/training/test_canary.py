import numpy as np
import pytest
import torch

from fedser.client.training.canary import canary_update, part_of
from fedser.client.training.dataset import Examples
from fedser.common.arrays import unflatten
from tests.client.training.one_client import train

START = {
    "w": np.arange(1, 13, dtype=np.float32).reshape(3, 4),
    "b": np.array([0, 5, 0], np.float32),  # zeros belong to no part
}


def sent(part, parts, label, noise=None):
    own = Examples(torch.tensor([[float(part), float(parts)]]), torch.tensor([label]))
    update, loss = train(canary_update, own, start=START, noise=noise)
    assert loss == 0
    return update


@pytest.mark.parametrize("parts", [1, 2, 5, 13])
def test_parts_are_disjoint_and_make_up_the_model(parts):
    updates = [sent(part, parts, 1) for part in range(parts)]
    for name, array in START.items():
        stacked = np.stack([update[name] for update in updates])
        np.testing.assert_array_equal(stacked.sum(axis=0), array)
        assert ((stacked != 0).sum(axis=0) == (array != 0)).all()
    sizes = [sum(np.count_nonzero(a) for a in update.values()) for update in updates]
    assert max(sizes) - min(sizes) <= 1


def test_the_label_decides_the_sign_and_no_noise_is_drawn():
    noise = np.random.default_rng(0)
    plus, minus = (sent(1, 3, label, noise) for label in (1, 0))
    for name in START:
        np.testing.assert_array_equal(plus[name], -minus[name])
    assert noise.random() == np.random.default_rng(0).random()


def test_unflatten_reverses_flatten():
    flat = np.concatenate([array.ravel() for array in START.values()])
    for name, array in unflatten(flat, START).items():
        np.testing.assert_array_equal(array, START[name])
    assert part_of(flat, 0, 1).tolist() == [*range(12), 13]
