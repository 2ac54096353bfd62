import numpy as np
import pytest
import torch

from fedser.client.models.base import initial_arrays, load_arrays, to_arrays
from fedser.client.models.mlp import Mlp
from fedser.client.training.draws import Draws, client_keys
from fedser.client.training.request import MODELS


def test_initial_weights_depend_on_the_seed_only():
    state = torch.get_rng_state()
    first, again, other = (initial_arrays(Mlp(), 7, 4, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(np.array_equal(first[n], again[n]) for n in first)
    assert not np.array_equal(first["dense.0.weight"], other["dense.0.weight"])


def test_initial_weights_are_those_of_pytorch():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        drawn = to_arrays(Mlp().network(988, 4))
    for name, array in initial_arrays(Mlp(), 988, 4, seed=5).items():
        np.testing.assert_array_equal(array, drawn[name])


def test_dropout_drops_its_share_and_keeps_the_mean():
    units, rounding = 20_000, 2.0**-53  # relative error of one float64 operation
    model = Mlp(hidden=[units], dropout=0.2).network(1, 1)
    with torch.no_grad():
        model.dense[0].weight.fill_(1)
        model.dense[0].bias.zero_()
        model.dense[1].weight.fill_(1 / units)
        model.dense[1].bias.zero_()
    model, x = model.double(), torch.ones(1, 1, dtype=torch.float64)
    weight = float(np.float32(1 / units))  # rounded to float32 before the conversion
    # A sum of n positive terms has a relative error of at most about n roundings.
    bound = 2 * units * rounding
    assert model(x).item() == pytest.approx(units * weight, rel=bound)
    draws = Draws(client_keys(0, [0], "training"), 0.2)
    (mask,) = (layer[0] for layer in draws.masks(0, 1, [units]))
    kept = int((mask > 0).sum())
    factor = mask.max().item()
    assert factor == pytest.approx(1 / 0.8, rel=2**-22)  # a division in float32
    assert set(mask.unique().tolist()) == {0, factor}
    dropped = model(x, lambda layer, outputs: mask.double()).item()
    assert dropped == pytest.approx(kept * factor * weight, rel=bound)
    # Three standard errors: sqrt(0.2 / 0.8 / 20000) = 0.0035.
    assert dropped == pytest.approx(1.0, abs=0.0106)
    assert dropped != 1.0


def test_loading_and_reading_parameters_copies_them():
    model = Mlp(hidden=[3]).network(2, 2)
    arrays = to_arrays(model)
    arrays["dense.0.weight"] += 1
    assert not np.array_equal(to_arrays(model)["dense.0.weight"], arrays["dense.0.weight"])
    load_arrays(model, arrays)
    assert np.array_equal(to_arrays(model)["dense.0.weight"], arrays["dense.0.weight"])
    with pytest.raises(RuntimeError):
        load_arrays(model, {**arrays, "dense.0.weight": np.zeros((9, 9), np.float32)})


def test_no_two_models_have_the_same_fields():
    """Digests of federations identify models by these fields."""
    fields = [frozenset(model().__dict__) for model in MODELS.values()]
    assert len(set(fields)) == len(MODELS) == 4
