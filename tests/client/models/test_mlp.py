import numpy as np
import torch

from fedser.client.models.base import initial_arrays, load_arrays
from fedser.client.models.mlp import Mlp, Perceptron


def test_shapes_are_those_of_the_2022_study():
    arrays = initial_arrays(Mlp(), 988, 4, seed=0)
    shapes = [a.shape for a in arrays.values()]
    assert shapes == [(256, 988), (256,), (128, 256), (128,), (4, 128), (4,)]
    assert sum(a.size for a in arrays.values()) == 286_596


def test_scores_are_those_of_a_relu_network():
    arrays = initial_arrays(Mlp(hidden=[5, 3]), 4, 2, seed=0)
    model = Perceptron([4, 5, 3, 2], dropout=0.0)
    load_arrays(model, arrays)
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    h = x
    for layer in range(3):
        h = h @ arrays[f"dense.{layer}.weight"].T + arrays[f"dense.{layer}.bias"]
        h = np.maximum(h, 0) if layer < 2 else h
    np.testing.assert_allclose(model(torch.from_numpy(x)).detach(), h, atol=1e-6)
