"""The statistics attack: its statistics, against a direct computation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedser.attacks.algorithms.statistics import Statistics
from tests.attacks.algorithms.networks import FIRST, LAST, LAYERS, gradients, in_other_orders

STATISTICS = Statistics(1e-3, None)


def test_statistics_are_means_over_hidden_units():
    made = gradients()
    weight, bias = (made[n].astype(np.float64) for n in ("dense.0.weight", "dense.0.bias"))
    both = np.concatenate([weight, bias[:, :, None]], axis=2)
    expected = np.concatenate(
        [
            np.abs(both).mean(axis=1),
            (both**2).mean(axis=1),
            (both * np.sign(bias)[:, :, None]).mean(axis=1),
        ],
        axis=1,
    )
    np.testing.assert_allclose(STATISTICS.statistics(made), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [[layer] for layer in LAYERS] + [LAYERS], ids="+".join)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_hidden_units_does_not_matter(layers, seed):
    made = gradients(2, seed, layers)
    found = STATISTICS.statistics(made)
    assert found.shape[1] > 1
    shuffled = in_other_orders(made, seed + 1)
    np.testing.assert_allclose(STATISTICS.statistics(shuffled), found, rtol=1e-3, atol=1e-4)


def test_the_order_of_inputs_and_of_emotions_matters():
    for layers, axis in (([FIRST], 2), ([LAST], 1)):
        made = gradients(layers=layers)
        rolled = {n: np.roll(a, 1, axis=axis) if a.ndim > axis else a for n, a in made.items()}
        assert np.abs(STATISTICS.statistics(rolled) - STATISTICS.statistics(made)).max() > 0.1
