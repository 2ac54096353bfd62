from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedser.client.speakers.clients import held_out_set, make_clients
from fedser.client.speakers.public_model import LIMIT, RADIUS, PublicModel, activations
from fedser.common.errors import UserError
from tests.examples import FEATURES, corpus


def public_model(components=5, seed=0):
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=FEATURES).astype(np.float32)
    directions = rng.normal(size=(FEATURES, components)).astype(np.float32)
    head = {
        "dense.0.weight": rng.normal(size=(4, components)).astype(np.float32),
        "dense.0.bias": np.zeros(4, np.float32),
    }
    return PublicModel(mean, directions, head, frozenset({"one", "two"}))


def test_projected_utterances_have_one_norm():
    features = np.random.default_rng(1).normal(size=(20, FEATURES)).astype(np.float32)
    model = public_model()
    projected = model.project(features)
    np.testing.assert_allclose(np.linalg.norm(projected, axis=1), RADIUS, rtol=1e-5)
    straight = (features - model.mean) @ model.directions
    cosines = (projected * straight).sum(axis=1) / np.linalg.norm(straight, axis=1) / RADIUS
    np.testing.assert_allclose(cosines, 1, rtol=1e-5)


def with_hidden_layers(widths=(9, 6), components=5):
    """A public model with hidden layers, and the same layers as a network of PyTorch."""
    rng, layers, before, hidden = np.random.default_rng(3), [], FEATURES, {}
    for number, width in enumerate(widths):
        layer = nn.Linear(before, width)
        layers += [layer, nn.ReLU()]
        hidden[f"hidden.{number}.weight"] = layer.weight.detach().numpy()
        hidden[f"hidden.{number}.bias"] = layer.bias.detach().numpy()
        before = width
    made = replace(
        public_model(components),
        mean=rng.normal(size=before).astype(np.float32),
        directions=rng.normal(size=(before, components)).astype(np.float32),
        hidden=hidden,
    )
    return made, nn.Sequential(*layers)


@pytest.mark.parametrize("widths", [(7,), (9, 6), (12, 3, 8)])
def test_hidden_units_are_those_of_the_network(widths):
    model, network = with_hidden_layers(widths)
    features = np.random.default_rng(1).normal(size=(20, FEATURES)).astype(np.float32)
    units = network(torch.from_numpy(features)).detach().numpy()
    np.testing.assert_allclose(activations(features, model.hidden), units, atol=1e-5)
    straight = (units - model.mean) @ model.directions
    expected = RADIUS * straight / np.linalg.norm(straight, axis=1, keepdims=True)
    np.testing.assert_allclose(model.project(features), expected, atol=1e-4)
    assert model.dimension == FEATURES and len(model.mean) == widths[-1]
    with pytest.raises(UserError, match=f"reads {FEATURES} features, and these are 3"):
        model.project(np.zeros((2, 3), np.float32))


def test_a_model_with_hidden_layers_is_read_again(tmp_path):
    model, _ = with_hidden_layers((3,) * 12)  # more layers than one digit counts
    model.save(tmp_path / "public")
    read = PublicModel.load(tmp_path / "public")
    assert read == model and set(read.projection) == set(model.projection)
    sent = PublicModel.of(model.projection, frozenset())
    assert sent == model and not sent.head
    other = {**model.hidden, "hidden.0.bias": model.hidden["hidden.0.bias"] + 1}
    assert replace(model, hidden=other) != model


def test_outliers_are_cut_off_and_the_mean_stays_at_zero():
    model = public_model()
    high, higher = np.full((2, FEATURES), 2.0, np.float32)
    high[0], higher[0] = LIMIT, 1e9
    np.testing.assert_array_equal(model.project(high[None]), model.project(higher[None]))
    centred = PublicModel(np.zeros(FEATURES, np.float32), model.directions, {}, frozenset())
    assert not centred.project(np.zeros((1, FEATURES), np.float32)).any()


def test_a_saved_model_is_read_again(tmp_path):
    model = public_model()
    model.save(tmp_path / "public")
    read = PublicModel.load(tmp_path / "public")
    assert read == model and hash(read) == hash(model) and read.digests == model.digests
    np.testing.assert_array_equal(read.head["dense.0.weight"], model.head["dense.0.weight"])
    assert read != public_model(seed=1) and read != "a model"


def test_features_of_another_kind_are_rejected():
    with pytest.raises(UserError, match=f"reads {FEATURES} features, and these are 3"):
        public_model().project(np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("normalisation", ["speaker", "corpus", "none"])
def test_clients_and_test_speakers_are_projected_alike(normalisation):
    data, model = corpus(), public_model()
    plain = make_clients(data, data.speakers[:8], 0, normalisation)
    made = make_clients(replace(data, public=model), data.speakers[:8], 0, normalisation)
    np.testing.assert_array_equal(made.features, model.project(plain.features))
    assert made.dimension == 5
    tested, labels = held_out_set(
        replace(data, public=model), data.speakers[8:], plain, normalisation
    )
    features, expected = held_out_set(data, data.speakers[8:], plain, normalisation)
    np.testing.assert_array_equal(tested, model.project(features))
    np.testing.assert_array_equal(labels, expected)
