import numpy as np
import pytest
import torch

from fedser.client.models.base import initial_arrays, load_arrays, to_arrays
from fedser.client.models.mlp import Mlp, Perceptron
from fedser.client.training.draws import Draws, client_keys


def test_shapes_are_those_of_the_2022_study():
    arrays = initial_arrays(Mlp(), 988, 4, seed=0)
    shapes = [a.shape for a in arrays.values()]
    assert shapes == [(256, 988), (256,), (128, 256), (128,), (4, 128), (4,)]
    assert sum(a.size for a in arrays.values()) == 286_596


def test_initial_weights_follow_the_seed_and_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    first, again, other = (initial_arrays(Mlp(), 7, 4, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(np.array_equal(first[n], again[n]) for n in first)
    assert not np.array_equal(first["dense.0.weight"], other["dense.0.weight"])


def test_forward_is_the_relu_network():
    arrays = initial_arrays(Mlp(hidden=[5, 3]), 4, 2, seed=0)
    model = Perceptron(Mlp(hidden=[5, 3]), 4, 2)
    load_arrays(model, arrays)
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    h = x
    for layer in range(3):
        h = h @ arrays[f"dense.{layer}.weight"].T + arrays[f"dense.{layer}.bias"]
        h = np.maximum(h, 0) if layer < 2 else h
    np.testing.assert_allclose(model(torch.from_numpy(x)).detach(), h, atol=1e-6)


def test_dropout_drops_its_share_and_keeps_the_mean():
    model = Perceptron(Mlp(hidden=[20_000], dropout=0.2), 1, 1)
    with torch.no_grad():
        model.dense[0].weight.fill_(1)
        model.dense[0].bias.zero_()
        model.dense[1].weight.fill_(1 / 20_000)
        model.dense[1].bias.zero_()
    draws = Draws(client_keys(0, [0], "training"), 0.2)
    dropped = model(torch.ones(1, 1), lambda layer, x: draws.masks(0, 1, [20_000])[layer][0]).item()
    # standard error sqrt(0.2 / 0.8 / 20000) = 0.0035
    assert dropped == pytest.approx(1.0, abs=0.0106)
    assert dropped != 1.0
    kept = model.double()(torch.ones(1, 1, dtype=torch.float64)).item()
    # float64 rounds each of 20,000 terms; the weight itself was rounded to float32
    assert kept == pytest.approx(20_000 * float(np.float32(1 / 20_000)), abs=20_000 * 2**-52)


def test_arrays_make_the_round_trip_as_copies():
    model = Perceptron(Mlp(hidden=[3]), 2, 2)
    arrays = to_arrays(model)
    arrays["dense.0.weight"] += 1
    assert not np.array_equal(to_arrays(model)["dense.0.weight"], arrays["dense.0.weight"])
    load_arrays(model, arrays)
    assert np.array_equal(to_arrays(model)["dense.0.weight"], arrays["dense.0.weight"])
    with pytest.raises(RuntimeError):
        load_arrays(model, {**arrays, "dense.0.weight": np.zeros((9, 9), np.float32)})


def test_initial_parameters_are_those_of_pytorch():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        drawn = to_arrays(Perceptron(Mlp(), 988, 4))
    for name, array in initial_arrays(Mlp(), 988, 4, seed=5).items():
        np.testing.assert_array_equal(array, drawn[name])
