"""What is learned from public speech, and the configurations that need it."""

from dataclasses import replace

import numpy as np
import pytest

from fedser.client.models.base import initial_arrays, load_arrays
from fedser.client.models.mlp import Mlp
from fedser.client.speakers.clients import whole_speakers
from fedser.client.speakers.public_model import PublicModel, activations
from fedser.common.errors import UserError
from fedser.conf.algorithm_keys import AlgorithmConfig
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.server.privacy.plan import PrivacyPlan
from fedser.server.study import public, public_network
from fedser.server.study.federations import (
    LARGEST_STEP,
    MODEL_NOISE,
    UNCLIPPED_STEP,
    private_federations,
    with_step,
)
from fedser.server.study.public import fit_public_model, public_model, with_public
from fedser.server.study.public_network import train_hidden_layers
from tests.examples import CENTRAL, DP_SGD, LOCAL, UDP, corpus
from tests.server.study.test_federations import study

LINEAR = ["model=linear", "public=[made]", "model.components=6"]
CACHED = ["model=linear", "public=[emodb]", "model.components=6"]


def fitted(*corpora, components=6, normalisation="speaker"):
    changes = [f"model.components={components}", f"normalisation={normalisation}"]
    config = study("model=linear", "public=[made]", *changes)
    return fit_public_model(corpora or [corpus("one")], config)


def doubled(data):
    """Each utterance of a corpus twice, as if it were another recording."""
    twice = [*data.utterances, *data.utterances]
    return replace(data, utterances=twice, features=np.concatenate([data.features] * 2))


def test_directions_whiten_the_public_features():
    data = corpus("one", speakers=30)
    model, speech = fitted(data), whole_speakers([data], 0, "speaker")
    coordinates = (speech.features - model.mean) @ model.directions
    covariance = np.cov(coordinates.T, bias=True)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-5)
    scores = coordinates / np.sqrt(np.diag(covariance))
    means = [scores[speech.labels == label].mean(axis=0) for label in range(4)]
    shares = np.bincount(speech.labels) / len(speech.labels)
    ratios = np.sqrt(shares @ np.square(means))  # the emotions have one share each
    emphasis = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(emphasis, ratios**public.EMPHASIS, rtol=1e-3)


def test_each_public_corpus_has_the_same_weight():
    one, other = corpus("one", utterances=24), corpus("other", seed=5, utterances=8)
    plain, uneven = (fitted(one, part, normalisation="none") for part in (other, doubled(other)))
    np.testing.assert_allclose(plain.mean, uneven.mean, atol=1e-5)
    signs = np.sign((plain.directions * uneven.directions).sum(axis=0))
    np.testing.assert_allclose(plain.directions, uneven.directions * signs, atol=1e-4)


def test_the_public_layer_recognises_public_speech():
    data = corpus("one", speakers=20)
    model = fitted(data)
    speech = whole_speakers([data], 0, "speaker")
    scores = model.project(speech.features) @ model.head["dense.0.weight"].T
    right = (scores + model.head["dense.0.bias"]).argmax(axis=1) == speech.labels
    assert right.mean() > 0.6  # guessing gives 0.25


def test_public_speech_must_have_every_emotion_and_enough_dimensions():
    data = corpus("one")
    no_anger = [u for u in data.utterances if u.emotion != "anger"]
    rows = [i for i, u in enumerate(data.utterances) if u.emotion != "anger"]
    with pytest.raises(UserError, match="public: nobody speaks with anger"):
        fitted(replace(data, utterances=no_anger, features=data.features[rows]))
    with pytest.raises(UserError, match="model.components=13: the public speech has 12 dim"):
        fitted(components=13)


def test_hidden_layers_learn_public_emotions():
    data = corpus("one", speakers=30)
    config = study("model=adapter", "public=[made]", "model.components=6")
    config = replace(config, model=replace(config.model, public_hidden=[16, 9]))
    model = fit_public_model([data], config)
    assert model.hidden["hidden.0.weight"].shape == (16, data.features.shape[1])
    assert model.hidden["hidden.1.weight"].shape == (9, 16)
    assert model.mean.shape == (9,) and model.directions.shape == (9, 6)
    speech = whole_speakers([data], 0, "speaker")
    units = activations(speech.features, model.hidden)
    covariance = np.cov((units @ model.directions).T, bias=True)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-4)
    scores = model.project(speech.features) @ model.head["dense.0.weight"].T
    right = (scores + model.head["dense.0.bias"]).argmax(axis=1) == speech.labels
    assert right.mean() > 0.5  # guessing gives 0.25
    assert fit_public_model([data], config) == model
    assert fit_public_model([data], replace(config, seed=1)) != model


def test_training_moves_the_emotions_apart(monkeypatch):
    monkeypatch.setattr(public_network, "EPOCHS", 60)  # there is little speech
    data = corpus("one", speakers=30)
    speech = whole_speakers([data], 0, "speaker")
    weights = np.full(len(speech.labels), 1.0)

    def separation(layers):
        units = activations(speech.features, layers).astype(np.float64)
        means = np.stack([units[speech.labels == c].mean(axis=0) for c in range(4)])
        return means.var(axis=0).sum() / units.var(axis=0).sum()

    arrays = initial_arrays(Mlp([16]), speech.dimension, 4, 0)
    drawn = {f"hidden.0.{kind}": arrays[f"dense.0.{kind}"] for kind in ("weight", "bias")}
    trained = train_hidden_layers(speech.features, speech.labels, weights, [16], 0)
    assert separation(trained) > 1.2 * separation(drawn)


def test_private_or_shadow_speech_must_not_be_public():
    model = fitted(corpus("one"))
    assert with_public(corpus("other"), model).public == model
    with pytest.raises(UserError, match="public: 120 recording.s. of one are in the public speech"):
        with_public(corpus("one"), model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model=linear"], "model=linear reads coordinates .* set public"),
        (["public=[emodb]"], "public is set, but model=mlp learns nothing"),
        (
            ["algorithm=fedsgd", "algorithm.server_learning_rate=null"],
            "null needs algorithm=fedsgd",
        ),
        ([*LINEAR, "algorithm.server_learning_rate=null"], "null needs algorithm=fedsgd"),
    ],
)
def test_keys_that_do_not_fit_together_are_rejected(changes, message):
    with pytest.raises(UserError, match=message):
        study(*changes)


def test_the_model_of_a_run_is_read_from_its_folder(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(public, "read_corpus", lambda *given: read.append(given) or corpus("one"))
    config = study(*CACHED, f"cache={tmp_path / 'cache'}")
    (tmp_path / "run").mkdir()
    first = public_model(config, tmp_path / "run", save=False)
    assert len(read) == 1 and not list((tmp_path / "run").iterdir())
    assert public_model(config, tmp_path / "run", save=True) == first
    assert public_model(config, tmp_path / "run", save=True) == first and len(read) == 2
    assert PublicModel.load(tmp_path / "run" / "public.safetensors") == first
    assert public_model(study(), tmp_path, save=True) is None


@pytest.fixture
def fits(monkeypatch):
    """The fits that were made of a corpus named one."""
    found, real = [], public.fit_public_model
    monkeypatch.setattr(public, "read_corpus", lambda *given: corpus("one"))
    monkeypatch.setattr(
        public, "fit_public_model", lambda *given: found.append(given) or real(*given)
    )
    return found


def test_a_public_model_is_fitted_once_for_all_runs(fits, tmp_path):
    config = study(*CACHED, f"cache={tmp_path / 'cache'}")
    (tmp_path / "other").mkdir()
    first = public_model(config, tmp_path, save=False)
    assert public_model(config, tmp_path / "other", save=True) == first and len(fits) == 1
    loud = study(*CACHED, f"cache={tmp_path / 'cache'}", "privacy=central_8", "rounds=3")
    assert public_model(loud, tmp_path, save=False) == first and len(fits) == 1


@pytest.mark.parametrize(
    "change", ["model.components=5", "normalisation=none", "seed=1", "louder speech"]
)
def test_other_speech_or_settings_give_another_fit(change, fits, tmp_path, monkeypatch):
    config = study(*CACHED, f"cache={tmp_path / 'cache'}")
    first = public_model(config, tmp_path, save=False)
    if change == "louder speech":
        data = corpus("one")
        louder = replace(data, features=data.features * np.linspace(1, 2, 12, dtype=np.float32))
        monkeypatch.setattr(public, "read_corpus", lambda *given: louder)
    else:
        config = study(*CACHED, f"cache={tmp_path / 'cache'}", change)
    public_model(config, tmp_path, save=False)
    assert len(fits) == 2 and first is not None


@pytest.mark.parametrize("content", [b"", b"nothing", bytes(200)])
def test_a_damaged_fit_in_the_cache_is_made_anew(content, fits, tmp_path, capsys):
    config = study(*CACHED, f"cache={tmp_path / 'cache'}")
    first = public_model(config, tmp_path, save=False)
    (path,) = (tmp_path / "cache" / "public").iterdir()
    path.write_bytes(content)
    assert public_model(config, tmp_path, save=False) == first and len(fits) == 2
    assert "damaged" in capsys.readouterr().err
    assert PublicModel.load(path) == first


def test_federations_start_from_the_public_layer(tmp_path):
    data = replace(corpus(), public=fitted())
    (federation,) = private_federations(study(*LINEAR, "folds=[1]"), data, tmp_path)
    assert federation.start == data.public.head and federation.dimension == 6
    other = replace(federation, start={n: a + 1 for n, a in data.public.head.items()})
    assert other.digest != federation.digest
    load_arrays(federation.protocol.model.network(6, 4), federation.start)


@pytest.mark.parametrize(
    ("config", "noise"),
    [
        (replace(CENTRAL, epsilon=None, noise_multiplier=2.0), 2 * 0.1 / 40),
        (replace(LOCAL, epsilon=None, noise_multiplier=2.0), 2 * 2 * 0.1 / 40**0.5),
        (replace(CENTRAL, epsilon=None, noise_multiplier=0.2), 0.2 * 0.1 / 40),
        (UDP, 0.0),
        (DP_SGD, 0.0),
        (PrivacyConfig(), 0.0),
    ],
)
def test_the_step_follows_from_the_noise_alone(config, noise):
    plan = PrivacyPlan(config, 0.5, 25, 80, shared={"dense.0.weight": 24})
    assert (plan.model_noise or 0.0) == pytest.approx(noise * (24 * 25) ** 0.5)
    step = with_step(AlgorithmConfig("fedsgd", None), plan).server_learning_rate
    if noise == 0:
        assert step == UNCLIPPED_STEP
    elif noise * 5 * LARGEST_STEP > MODEL_NOISE:
        assert step * noise * 5 == pytest.approx(MODEL_NOISE)
    else:
        assert step == LARGEST_STEP
    assert with_step(AlgorithmConfig("fedsgd", 0.3), plan).server_learning_rate == 0.3
