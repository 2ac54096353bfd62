import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, norm
from torch.nn import functional as F

from fedser.client.features.frames import pad
from fedser.client.models.attention import Attention
from fedser.client.models.base import initial_arrays, load_arrays
from fedser.client.models.mlp import Mlp, Perceptron
from fedser.client.privacy.noise import GradientClip
from fedser.client.training import local as training
from fedser.client.training.dataset import Examples
from fedser.client.training.draws import Draws, client_keys
from fedser.client.training.local import fedavg_update, fedsgd_gradient, poisson_batch
from fedser.common.arrays import l2_norm
from fedser.common.seeds import Reproducible
from fedser.conf.training_keys import TrainingConfig

MODEL = Mlp(hidden=[6, 5], dropout=0.2)
NO_DROPOUT = Mlp(hidden=[6, 5], dropout=0.0)
START = initial_arrays(MODEL, 7, 4, seed=3)
TRAINERS = (fedavg_update, fedsgd_gradient)
PRIVATE = GradientClip(0.25, "utterance", noise_multiplier=1.0)


def examples(count: int) -> Examples:
    generator = torch.Generator().manual_seed(count)
    labels = torch.randint(0, 4, (count,), generator=generator)
    return Examples(torch.randn(count, 7, generator=generator), labels)


def train(trainer, data, *, model=MODEL, config=None, seed=0, clip=None, noise=None):
    source = noise or Reproducible(seed)
    return trainer(model, START, data, config or TrainingConfig(), draws(seed, model), clip, source)


def draws(seed, model=MODEL):
    return Draws(client_keys(seed, [0], "training"), model.dropout)


def order(seed, count, epoch=0):
    return draws(seed).orders(epoch, torch.tensor([count]))[0]


def double_model(config):
    model = Perceptron(config, 7, 4)
    load_arrays(model, START)
    return model.double()


def clipped_gradient(model, data, bound, masks=None):
    """One batch's mean gradient, scaled down to the bound."""
    model.zero_grad()
    F.cross_entropy(model(data.features.double(), masks), data.labels).backward()
    length = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters()))
    factor = 1.0 if bound is None else min(1.0, bound / float(length))
    return {name: p.grad * factor for name, p in model.named_parameters()}


def mean_of_clipped(model, data, bound):
    """Gradients of one utterance after another, each scaled down to the bound."""
    singles = [clipped_gradient(model, subset(data, [index]), bound) for index in range(len(data))]
    return {name: sum(single[name] for single in singles) / len(data) for name in singles[0]}


def subset(data, indices):
    return Examples(data.features[indices], data.labels[indices])


def reference_adam(model, config, gradients):
    """Adam by its equations in float64."""
    moments = {n: [torch.zeros_like(p), torch.zeros_like(p)] for n, p in model.named_parameters()}
    for step, gradient in enumerate(gradients, start=1):
        with torch.no_grad():
            for name, p in model.named_parameters():
                g = gradient[name] + config.weight_decay * p
                m, v = moments[name]
                m.mul_(config.beta1).add_(g, alpha=1 - config.beta1)
                v.mul_(config.beta2).add_(g * g, alpha=1 - config.beta2)
                m_hat, v_hat = m / (1 - config.beta1**step), v / (1 - config.beta2**step)
                p -= config.learning_rate * m_hat / (v_hat.sqrt() + config.adam_epsilon)
    return {n: p.detach().numpy() - START[n] for n, p in model.named_parameters()}


def reference_fedavg(data, config, seed, bound):
    """Adam with the same order of utterances and masks."""
    model = double_model(MODEL)
    epochs = (order(seed, len(data), epoch) for epoch in range(config.epochs))
    batches = (batch for drawn in epochs for batch in drawn.split(config.batch_size))
    gradients = (
        clipped_gradient(model, subset(data, batch), bound, masks_of(seed, step))
        for step, batch in enumerate(batches)
    )
    return reference_adam(model, config, gradients)


def masks_of(seed, step):
    return lambda layer, x: draws(seed).masks(step, len(x), MODEL.hidden)[layer][0]


@pytest.mark.parametrize("bound", [None, 0.25])
@pytest.mark.parametrize(("count", "epochs"), [(1, 1), (20, 1), (27, 2), (45, 1)])
def test_fedavg_is_adam_by_its_equations(count, epochs, bound):
    config = TrainingConfig(epochs=epochs)
    clip = None if bound is None else GradientClip(bound, "batch")
    update, loss = train(fedavg_update, examples(count), config=config, seed=5, clip=clip)
    expected = reference_fedavg(examples(count), config, 5, bound)
    for name in update:
        np.testing.assert_allclose(update[name], expected[name], atol=2e-6)
    assert 0 < loss < 5
    assert config.steps(count) == epochs * int(np.ceil(count / 20))


def test_the_first_adam_step_is_about_the_sign_so_clipping_does_not_bound_it():
    config = TrainingConfig(weight_decay=0.0)
    norms = []
    for clip in (None, GradientClip(0.25, "batch"), GradientClip(1e-3, "batch")):
        update, _ = train(fedavg_update, examples(20), model=NO_DROPOUT, config=config, clip=clip)
        moved = np.concatenate([u.ravel() for u in update.values()])
        norms.append(np.linalg.norm(moved))
        active = np.abs(moved) > 1e-5  # units that never fire have no gradient
        np.testing.assert_allclose(np.abs(moved[active]), config.learning_rate, rtol=0.01)
    assert norms[2] == pytest.approx(norms[0], rel=0.02)


def test_fedsgd_gradient_matches_finite_differences():
    gradient, loss = train(fedsgd_gradient, examples(9), model=NO_DROPOUT)

    def mean_loss(arrays):
        network = Perceptron(NO_DROPOUT, 7, 4)
        load_arrays(network, arrays)
        data = examples(9)
        with torch.no_grad():
            network.double()
            return F.cross_entropy(network(data.features.double()), data.labels).item()

    assert loss == pytest.approx(mean_loss(START), rel=1e-5)
    for name, index in (
        ("dense.0.weight", (2, 3)),
        ("dense.1.bias", (1,)),
        ("dense.2.weight", (0, 4)),
    ):
        up, down = ({n: a.copy() for n, a in START.items()} for _ in range(2))
        up[name][index] += 1e-3
        down[name][index] -= 1e-3
        slope = (mean_loss(up) - mean_loss(down)) / 2e-3
        assert gradient[name][index] == pytest.approx(slope, abs=2e-4)


def test_fedsgd_uses_one_batch_and_honours_the_clip():
    data = examples(50)
    gradient, _ = train(fedsgd_gradient, data, seed=1, clip=GradientClip(0.01, "batch"))
    assert l2_norm(gradient) == pytest.approx(0.01, rel=1e-3)
    whole, _ = train(fedsgd_gradient, subset(data, order(1, 50)[:20]), model=NO_DROPOUT, seed=1)
    drawn, _ = train(fedsgd_gradient, data, model=NO_DROPOUT, seed=1)
    for name in whole:
        np.testing.assert_allclose(whole[name], drawn[name], atol=1e-6)


def test_a_seed_reproduces_an_update_exactly():
    updates = [train(fedavg_update, examples(33), seed=s)[0] for s in (1, 1, 2)]
    name = "dense.0.weight"
    assert np.array_equal(updates[0][name], updates[1][name])
    assert not np.array_equal(updates[0][name], updates[2][name])


@pytest.mark.parametrize("clip", [None, GradientClip(0.25, "batch", noise_multiplier=1.0)])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_noise_source_is_left_alone_unless_utterances_are_clipped(trainer, clip):
    noise = Reproducible(0)
    train(trainer, examples(30), clip=clip, noise=noise)
    assert noise.words(1) == Reproducible(0).words(1)


class Recorded:
    """Noise source that remembers what it gave, and may leave every batch empty."""

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
    """Have training ask a `Recorded` source for numbers, not for bits."""
    for name in ("uniforms", "standard_normal"):
        real = getattr(training, name)

        def ask(noise, size, name=name, real=real):
            if not isinstance(noise, Recorded):
                return real(noise, size)
            return noise.random(size) if name == "uniforms" else noise.standard_normal(size)

        monkeypatch.setattr(training, name, ask)


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


def test_private_fedavg_takes_adam_steps_on_the_clipped_gradients():
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


def test_an_empty_batch_yields_noise_alone():
    source = Recorded(empty=True)
    gradient, loss = train(
        fedsgd_gradient, examples(40), clip=GradientClip(0.5, "utterance", 2.0), noise=source
    )
    assert loss == 0
    for array, normal in zip(gradient.values(), source.normals, strict=True):
        np.testing.assert_allclose(array, normal * (2.0 * 0.5 / 20), rtol=1e-6)


def test_empty_batches_move_the_weights_by_noise_alone():
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
def test_private_training_follows_the_noise_source_alone(trainer):
    data = examples(33)
    first, again, other = (
        train(trainer, data, seed=seed, clip=PRIVATE, noise=Reproducible(stream))
        for seed, stream in ((1, 1), (2, 1), (1, 2))
    )
    assert first[1] == again[1] != other[1]
    for name in first[0]:
        np.testing.assert_array_equal(first[0][name], again[0][name])
        assert not np.array_equal(first[0][name], other[0][name])


def test_private_dropout_masks_are_as_secret_as_the_noise():
    clip, config = GradientClip(10.0, "utterance"), every_utterance(9)
    first, other = (  # neither noise nor batches differ: masks alone can
        train(fedsgd_gradient, examples(9), config=config, clip=clip, noise=Reproducible(s))[0]
        for s in (1, 2)
    )
    assert not np.array_equal(first["dense.0.weight"], other["dense.0.weight"])


@pytest.mark.parametrize(("trainer", "rounds"), [(fedavg_update, None), (fedsgd_gradient, 1)])
@pytest.mark.parametrize(("count", "epochs"), [(5, 1), (20, 2), (27, 3)])
def test_private_steps_are_those_of_the_configuration(trainer, rounds, count, epochs):
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
def test_private_training_leaves_nothing_behind_in_memory(trainer):
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
def test_dp_sgd_clips_the_gradient_of_each_sequence_of_frames(count):
    model = Attention(frame_units=[6, 5], attention_units=3, hidden=[4], dropout=0.0)
    start, data = initial_arrays(model, 7, 4, seed=3), examples_of_frames(count)
    network = model.network(7, 4)
    load_arrays(network, start)
    singles = []
    for index in range(count):
        single = clipped_gradient(network.double(), subset(data, [index]), None)
        singles.append({name: gradient.numpy() for name, gradient in single.items()})
    bound = float(np.median([l2_norm(single) for single in singles]))
    gradient, _ = fedsgd_gradient(
        model,
        start,
        data,
        every_utterance(count),
        draws(0, model),
        GradientClip(bound, "utterance"),
        Reproducible(0),
    )
    for name in gradient:
        parts = [single[name] * min(1, bound / l2_norm(single)) for single in singles]
        np.testing.assert_allclose(gradient[name], sum(parts) / count, atol=1e-6)


def test_an_empty_poisson_batch_of_frames_is_noise_alone():
    model = Attention(frame_units=[6, 5], attention_units=3, hidden=[4])
    source = Recorded(empty=True)
    gradient, loss = fedsgd_gradient(
        model,
        initial_arrays(model, 7, 4, seed=3),
        examples_of_frames(5),
        TrainingConfig(batch_size=2),
        draws(0, model),
        PRIVATE,
        source,
    )
    assert loss == 0
    for array, drawn in zip(gradient.values(), source.normals, strict=True):
        np.testing.assert_allclose(array, drawn * 0.25 / 2, rtol=1e-6)
