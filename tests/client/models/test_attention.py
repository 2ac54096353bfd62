import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch.nn import functional as F

from fedser.client.features.frames import pad
from fedser.client.models.attention import Attention, Attentive
from fedser.client.models.base import (
    in_order,
    initial_arrays,
    load_arrays,
    parameter_sizes,
    to_arrays,
)
from fedser.client.training.dataset import trim
from fedser.client.training.draws import Draws, client_keys
from fedser.common.errors import UserError

CONFIG = Attention(frame_units=[6, 5], attention_units=3, hidden=[8], dropout=0.2)
LENGTHS = (4, 1, 6, 3)
START = initial_arrays(CONFIG, 7, 4, seed=2)


def sequences():
    rng = np.random.default_rng(0)
    return [rng.normal(size=(length, 7)).astype(np.float32) for length in LENGTHS]


def network(config=CONFIG):
    made = config.network(7, 4)
    load_arrays(made, START)
    return made


def by_hand(frames, weights):
    """Scores of one utterance, in float64 and without padding."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    for layer in (0, 1):
        frames = np.maximum(frames @ w[f"dense.{layer}.weight"].T + w[f"dense.{layer}.bias"], 0)
    query = np.tanh(frames @ w["dense.2.weight"].T + w["dense.2.bias"])
    mean = softmax(query @ w["dense.3.weight"][0]) @ frames
    hidden = np.maximum(w["dense.4.weight"] @ mean + w["dense.4.bias"], 0)
    return w["dense.5.weight"] @ hidden + w["dense.5.bias"]


@pytest.mark.parametrize("length", [6, 9])
def test_padding_does_not_change_the_scores(length):
    expected = [by_hand(frames, START) for frames in sequences()]
    found = network()(torch.from_numpy(pad(sequences(), length))).detach()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.ptp(expected, axis=0).min() > 1e-2  # the scores differ


def test_layers_are_numbered_in_the_order_of_computation():
    sizes = parameter_sizes(Attention(), 40, 4)
    assert sizes == {
        "dense.0.weight": 256 * 40,
        "dense.0.bias": 256,
        "dense.1.weight": 128 * 256,
        "dense.1.bias": 128,
        "dense.2.weight": 64 * 128,
        "dense.2.bias": 64,
        "dense.3.weight": 64,
        "dense.4.weight": 128 * 128,
        "dense.4.bias": 128,
        "dense.5.weight": 4 * 128,
        "dense.5.bias": 4,
    }
    shuffled = dict(sorted(START.items(), key=lambda item: item[0][::-1]))
    assert list(in_order(shuffled)) == list(START) == list(parameter_sizes(CONFIG, 7, 4))


def test_initial_weights_are_those_of_pytorch():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        drawn = to_arrays(Attentive(CONFIG, 7, 4))
    for name, array in START.items():
        np.testing.assert_array_equal(array, drawn[name])


def test_padding_has_no_effect_on_gradients():
    x = torch.from_numpy(pad(sequences(), 9))
    gradients = []
    for features in (x, x[:, :6]):
        model = network()
        F.cross_entropy(model(features), torch.tensor([0, 1, 2, 3])).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient.isfinite().all() and gradient.abs().max() > 0
        torch.testing.assert_close(gradient, gradients[1][name])


def test_first_gradient_sums_outer_products_of_real_frames():
    model, slopes = network(), []
    model.dense[0].register_full_backward_hook(lambda *hook: slopes.append(hook[2][0]))
    x = torch.from_numpy(pad(sequences(), 8)).requires_grad_()
    F.cross_entropy(model(x), torch.tensor([0, 1, 2, 3])).backward()
    expected = np.zeros((6, 7))
    for number, frames in enumerate(sequences()):
        for time, frame in enumerate(frames):
            expected += np.outer(slopes[0][number, time], frame)
    np.testing.assert_allclose(model.dense[0].weight.grad, expected, atol=1e-6)


def test_dropout_drops_the_same_units_in_all_frames():
    draws = Draws(client_keys(0, [0], "training"), 0.2)
    masks = [mask[0] for mask in draws.masks(0, 4, [6, 5, 8])]
    model = network()
    assert model.hidden == [6, 5, 8]
    found = model(torch.from_numpy(pad(sequences(), 6)), lambda layer, x: masks[layer]).detach()
    for row, frames in enumerate(sequences()):
        dropped = {name: array.copy() for name, array in START.items()}
        # The mask of a unit may be applied to the weights of the next layers instead.
        for layer, readers in ((0, [1]), (1, [2, 4]), (2, [5])):
            for reader in readers:
                dropped[f"dense.{reader}.weight"] *= masks[layer][row].numpy()
        np.testing.assert_allclose(found[row], by_hand(frames, dropped), atol=1e-6)
    assert not torch.equal(masks[0][0], masks[0][1])


def test_attention_without_a_query_is_the_mean():
    model = network()
    with torch.no_grad():
        model.dense[3].weight.zero_()
    frames = torch.from_numpy(sequences()[2])
    hidden = torch.relu(model.dense[1](torch.relu(model.dense[0](frames)))).mean(dim=0)
    expected = model.dense[5](torch.relu(model.dense[4](hidden)))
    torch.testing.assert_close(model(frames[None])[0], expected)


@pytest.mark.parametrize(
    "sizes", [{"frame_units": []}, {"frame_units": [4, 0]}, {"attention_units": 0}, {"hidden": [0]}]
)
def test_sizes_without_a_network_are_rejected(sizes):
    with pytest.raises(
        UserError, match=r"every size must be at least 1, and frame_units must not be empty"
    ):
        Attention(**sizes)


def test_trim_removes_padding_common_to_all_sequences():
    x = torch.from_numpy(pad(sequences(), 9))
    torch.testing.assert_close(trim(x), x[:, :6], equal_nan=True)
    torch.testing.assert_close(trim(x[[1, 3]]), x[[1, 3], :3], equal_nan=True)
    assert trim(x[:0]).shape == (0, 1, 7)  # an empty Poisson batch
    assert trim(x[:, 0]) is not None and trim(x[:, 0]).shape == (4, 7)
