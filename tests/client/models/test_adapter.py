import numpy as np
import pytest

from fedser.client.models.adapter import Adapter
from fedser.client.models.base import initial_arrays
from fedser.client.models.linear import Linear
from fedser.client.training.engine import MULTI_CLIENT_TRAINERS
from fedser.common.errors import UserError


def test_clients_train_the_last_layer_alone():
    made = initial_arrays(Adapter(components=7), 7, 4, seed=0)
    same = initial_arrays(Linear(components=7), 7, 4, seed=0)
    assert list(made) == ["dense.0.weight", "dense.0.bias"]
    assert all(np.array_equal(made[name], same[name]) for name in made)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_engines_that_train_a_linear_layer_train_an_adapter(device):
    adapter, linear = (MULTI_CLIENT_TRAINERS[name, device] for name in ("adapter", "linear"))
    assert adapter is linear


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"components": 0}, "model.components=0"),
        ({"public_hidden": []}, r"model.public_hidden=\[\] must name"),
        ({"public_hidden": [8, 0]}, r"model.public_hidden=\[8, 0\] must name"),
    ],
)
def test_an_adapter_without_units_is_rejected(changes, message):
    with pytest.raises(UserError, match=message):
        Adapter(**changes)
