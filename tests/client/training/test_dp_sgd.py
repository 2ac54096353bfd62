"""DP-SGD of one client: clipped gradients, noise, Poisson batches and secret masks."""

import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, norm

from fedser.client.features.frames import pad
from fedser.client.models.attention import Attention
from fedser.client.models.base import initial_arrays, load_arrays
from fedser.client.models.mlp import Perceptron
from fedser.client.privacy.noise import GradientClip
from fedser.client.training import dp_sgd
from fedser.client.training.dataset import Examples
from fedser.client.training.dp_sgd import poisson_batch
from fedser.client.training.local import fedavg_update, fedsgd_gradient
from fedser.common.arrays import l2_norm
from fedser.common.seeds import Reproducible
from fedser.conf.training_keys import TrainingConfig
from tests.client.training.one_client import (
    MODEL,
    NO_DROPOUT,
    START,
    TRAINERS,
    clipped_gradient,
    double_model,
    examples,
    reference_adam,
    subset,
    train,
)

PRIVATE = GradientClip(0.25, "utterance", noise_multiplier=1.0)


def mean_of_clipped(model, data, bound):
    """Gradients of one utterance after another, each scaled down to the bound."""
    singles = [clipped_gradient(model, subset(data, [index]), bound) for index in range(len(data))]
    return {name: sum(single[name] for single in singles) / len(data) for name in singles[0]}


class Recorded:
    """Noise source that records its numbers, and may leave every batch empty."""

    def __init__(self, empty=False):
        self.rng, self.empty = np.random.default_rng(0), empty
        self.sizes, self.normals = [], []

    def random(self, size):
        self.sizes.append(size)
        return np.full(size, 1 - 2**-53) if self.empty else self.rng.random(size)

    def standard_normal(self, shape):
        self.normals.append(self.rng.standard_normal(shape, np.float32))
        return self.normals[-1]


@pytest.fixture(autouse=True)
def recording(monkeypatch):
    """Let training ask a `Recorded` source for numbers instead of bits."""
    for name in ("uniforms", "standard_normal"):
        real = getattr(dp_sgd, name)

        def ask(noise, size, name=name, real=real):
            if not isinstance(noise, Recorded):
                return real(noise, size)
            return noise.random(size) if name == "uniforms" else noise.standard_normal(size)

        monkeypatch.setattr(dp_sgd, name, ask)


def every_utterance(count, epochs=1):
    return TrainingConfig(epochs=epochs, batch_size=count + 3)


@pytest.mark.parametrize("bound", [1e-3, 0.5, 1.5, 100.0])
@pytest.mark.parametrize("count", [1, 2, 13])
def test_dp_sgd_averages_gradients_clipped_one_by_one(count, bound):
    data = examples(count)
    gradient, loss = train(
        fedsgd_gradient,
        data,
        model=NO_DROPOUT,
        config=every_utterance(count),
        clip=GradientClip(bound, "utterance"),
    )
    expected = mean_of_clipped(double_model(NO_DROPOUT), data, bound)
    for name in gradient:
        np.testing.assert_allclose(gradient[name], expected[name], atol=1e-6)
    assert loss == pytest.approx(train(fedsgd_gradient, data, model=NO_DROPOUT)[1], rel=1e-6)


def test_private_fedavg_takes_adam_steps_on_clipped_gradients():
    data, config = examples(9), every_utterance(9, epochs=3)
    clip = GradientClip(0.5, "utterance")
    update, _ = train(fedavg_update, data, model=NO_DROPOUT, config=config, clip=clip)
    model = double_model(NO_DROPOUT)
    gradients = (mean_of_clipped(model, data, 0.5) for _ in range(config.epochs))
    expected = reference_adam(model, config, gradients)
    for name in update:
        np.testing.assert_allclose(update[name], expected[name], atol=2e-6)


def test_a_poisson_batch_is_divided_by_its_expected_size():
    data, config = examples(40), TrainingConfig(batch_size=10)
    clip = GradientClip(0.5, "utterance")
    source = Recorded()
    batches = []
    source.random = lambda size: batches.append(source.rng.random(size)) or batches[-1]
    gradient, loss = train(
        fedsgd_gradient, data, model=NO_DROPOUT, config=config, clip=clip, noise=source
    )
    drawn = subset(data, np.flatnonzero(batches[-1] < 0.25))
    assert len(drawn) not in (0, 10)
    expected = mean_of_clipped(double_model(NO_DROPOUT), drawn, 0.5)
    for name in gradient:
        np.testing.assert_allclose(gradient[name], expected[name] * (len(drawn) / 10), atol=1e-6)
    alone = train(fedsgd_gradient, drawn, model=NO_DROPOUT)[1]
    assert loss == pytest.approx(alone, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(2, 8),
    removed=st.integers(0, 7),
    exponent=st.integers(-6, 30),
    bound=st.floats(1e-3, 1e3),
)
def test_no_utterance_moves_the_sum_by_more_than_the_norm(count, removed, exponent, bound):
    data = examples(count)
    removed %= count
    data.features[removed] *= 10.0**exponent
    sums = []
    for kept in (list(range(count)), [i for i in range(count) if i != removed]):
        gradient, _ = train(
            fedsgd_gradient,
            subset(data, kept),
            model=NO_DROPOUT,
            config=every_utterance(count),
            clip=GradientClip(bound, "utterance"),
        )
        sums.append({name: array.astype(float) * len(kept) for name, array in gradient.items()})
    moved = l2_norm({name: sums[0][name] - sums[1][name] for name in sums[0]})
    assert moved <= bound * (1 + 1e-5)


def test_noise_has_the_stated_standard_deviation():
    data, config = examples(30), TrainingConfig(batch_size=12)
    drawn = []
    for seed in range(30):
        noised, clean = (
            train(
                fedsgd_gradient,
                data,
                config=config,
                seed=seed,
                clip=GradientClip(0.7, "utterance", multiplier),
            )[0]
            for multiplier in (1.3, 0.0)
        )
        drawn.extend((noised[name] - clean[name]).ravel() for name in noised)
    drawn = np.concatenate(drawn)
    stated = 1.3 * 0.7 / 12
    low, high = chi2.ppf([0.0005, 0.9995], len(drawn))
    assert low < np.square(drawn / stated).sum() < high
    assert abs(drawn.mean()) < 4 * stated / np.sqrt(len(drawn))


@pytest.mark.parametrize(("count", "rate"), [(25, 0.8), (1, 0.3), (200, 0.05), (7, 1.0)])
def test_batches_are_poisson_samples(count, rate):
    source = Reproducible(4)
    draws = 20_000
    batches = [poisson_batch(count, rate, source).numpy() for _ in range(draws)]
    sizes = np.array([len(batch) for batch in batches])
    spread, single = norm.isf(1e-4), rate * (1 - rate)
    variance = count * single
    assert abs(sizes.mean() - count * rate) <= spread * np.sqrt(variance / draws)
    fourth_moment = variance * (1 + 3 * (count - 2) * single)
    tolerance = spread * np.sqrt((fourth_moment - variance**2) / draws)
    assert abs(sizes.var() - variance) <= tolerance + spread**2 * variance / draws
    each = np.bincount(np.concatenate(batches), minlength=count) / draws
    assert len(each) == count
    assert np.abs(each - rate).max() <= norm.isf(1e-6) * np.sqrt(single / draws)


def test_an_empty_batch_yields_only_noise():
    source = Recorded(empty=True)
    gradient, loss = train(
        fedsgd_gradient, examples(40), clip=GradientClip(0.5, "utterance", 2.0), noise=source
    )
    assert loss == 0
    for array, normal in zip(gradient.values(), source.normals, strict=True):
        np.testing.assert_allclose(array, normal * (2.0 * 0.5 / 20), rtol=1e-6)


def test_empty_batches_move_the_weights_only_by_noise():
    source = Recorded(empty=True)
    config = TrainingConfig(epochs=2)
    update, loss = train(fedavg_update, examples(40), config=config, clip=PRIVATE, noise=source)
    assert loss == 0
    names = list(update)
    steps = [
        {n: torch.from_numpy(a * (0.25 / 20)).double() for n, a in zip(names, normals, strict=True)}
        for normals in np.array(source.normals, dtype=object).reshape(-1, len(names))
    ]
    assert len(steps) == 4
    expected = reference_adam(double_model(MODEL), config, steps)
    for name in names:
        np.testing.assert_allclose(update[name], expected[name], atol=2e-6)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_client_of_one_utterance_trains_privately(trainer):
    update, loss = train(trainer, examples(1), clip=PRIVATE)
    assert all(np.isfinite(array).all() and array.any() for array in update.values())
    assert 0 < loss < 5


@pytest.mark.parametrize("trainer", TRAINERS)
def test_private_training_depends_only_on_the_noise_source(trainer):
    data = examples(33)
    first, again, other = (
        train(trainer, data, seed=seed, clip=PRIVATE, noise=Reproducible(stream))
        for seed, stream in ((1, 1), (2, 1), (1, 2))
    )
    assert first[1] == again[1] != other[1]
    for name in first[0]:
        np.testing.assert_array_equal(first[0][name], again[0][name])
        assert not np.array_equal(first[0][name], other[0][name])


def test_private_dropout_masks_come_from_the_noise_source():
    clip, config = GradientClip(10.0, "utterance"), every_utterance(9)
    first, other = (  # noise and batches are equal: only the masks can differ
        train(fedsgd_gradient, examples(9), config=config, clip=clip, noise=Reproducible(s))[0]
        for s in (1, 2)
    )
    assert not np.array_equal(first["dense.0.weight"], other["dense.0.weight"])


@pytest.mark.parametrize(("trainer", "rounds"), [(fedavg_update, None), (fedsgd_gradient, 1)])
@pytest.mark.parametrize(("count", "epochs"), [(5, 1), (20, 2), (27, 3)])
def test_the_number_of_private_steps_follows_the_settings(trainer, rounds, count, epochs):
    source, config = Recorded(), TrainingConfig(epochs=epochs)
    train(trainer, examples(count), config=config, clip=PRIVATE, noise=source)
    steps = rounds or config.steps(count)
    assert source.sizes.count(count) == steps
    assert len(source.normals) == steps * len(START)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_private_training_raises_no_warning(trainer, recwarn):
    train(trainer, examples(30), clip=PRIVATE)
    assert not recwarn.list


@pytest.mark.parametrize("trainer", TRAINERS)
def test_private_training_leaves_no_model_in_memory(trainer):
    train(trainer, examples(5), clip=PRIVATE)
    gc.collect()
    gc.disable()
    try:
        train(trainer, examples(5), clip=PRIVATE)
        left = [o for o in gc.get_objects() if type(o) is Perceptron]
    finally:
        gc.enable()
    assert not left


def examples_of_frames(count):
    rng = np.random.default_rng(count)
    frames = [rng.normal(size=(rng.integers(1, 6), 7)).astype(np.float32) for _ in range(count)]
    return Examples(torch.from_numpy(pad(frames, 6)), examples(count).labels)


@pytest.mark.parametrize("count", [1, 13])
def test_dp_sgd_clips_the_gradient_of_each_frame_sequence(count):
    model = Attention(frame_units=[6, 5], attention_units=3, hidden=[4], dropout=0.0)
    start, data = initial_arrays(model, 7, 4, seed=3), examples_of_frames(count)
    network = model.network(7, 4)
    load_arrays(network, start)
    singles = []
    for index in range(count):
        single = clipped_gradient(network.double(), subset(data, [index]), None)
        singles.append({name: gradient.numpy() for name, gradient in single.items()})
    bound = float(np.median([l2_norm(single) for single in singles]))
    gradient, _ = train(
        fedsgd_gradient,
        data,
        model=model,
        start=start,
        config=every_utterance(count),
        clip=GradientClip(bound, "utterance"),
    )
    for name in gradient:
        parts = [single[name] * min(1, bound / l2_norm(single)) for single in singles]
        np.testing.assert_allclose(gradient[name], sum(parts) / count, atol=1e-6)


def test_an_empty_poisson_batch_of_frames_is_only_noise():
    model = Attention(frame_units=[6, 5], attention_units=3, hidden=[4])
    source = Recorded(empty=True)
    gradient, loss = train(
        fedsgd_gradient,
        examples_of_frames(5),
        model=model,
        start=initial_arrays(model, 7, 4, seed=3),
        config=TrainingConfig(batch_size=2),
        clip=PRIVATE,
        noise=source,
    )
    assert loss == 0
    for array, drawn in zip(gradient.values(), source.normals, strict=True):
        np.testing.assert_allclose(array, drawn * 0.25 / 2, rtol=1e-6)
