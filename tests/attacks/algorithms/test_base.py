"""What all attacks share: the layers of gradients."""

import numpy as np

from fedser.attacks.algorithms.base import layers_of


def test_a_layer_without_a_bias_has_a_bias_gradient_of_zero():
    rng = np.random.default_rng(0)
    weights = {f"dense.{i}.weight": rng.normal(size=(2, 3, 4)) for i in (0, 1)}
    bias = rng.normal(size=(2, 3))
    found = list(layers_of(weights | {"dense.0.bias": bias}))
    assert [layer for layer, *_ in found] == ["dense.0", "dense.1"]
    np.testing.assert_array_equal(found[0][2], bias)
    np.testing.assert_array_equal(found[1][2], np.zeros((2, 3)))
