import numpy as np
import pytest
import torch
from torch.nn import functional as F

from client.model import ModelConfig, Recogniser, initial_arrays, load_arrays
from client.training import Examples, TrainingConfig, fedavg_update, fedsgd_gradient

MODEL = ModelConfig(hidden=[6, 5], dropout=0.2)
START = initial_arrays(MODEL, 7, 4, seed=3)


def examples(count: int) -> Examples:
    generator = torch.Generator().manual_seed(count)
    labels = torch.randint(0, 4, (count,), generator=generator)
    return Examples(torch.randn(count, 7, generator=generator), labels)


def reference_fedavg(data, config, seed, clip):
    """Adam by its equations in float64, with the same order of utterances and masks."""
    generator = torch.Generator().manual_seed(seed)
    model = Recogniser(MODEL, 7, 4)
    load_arrays(model, START)
    model.double()
    moments = {n: [torch.zeros_like(p), torch.zeros_like(p)] for n, p in model.named_parameters()}
    step = 0
    for _ in range(config.epochs):
        for batch in torch.randperm(len(data), generator=generator).split(config.batch_size):
            step += 1
            model.zero_grad()
            F.cross_entropy(
                model(data.features[batch].double(), generator), data.labels[batch]
            ).backward()
            norm = torch.sqrt(sum((p.grad**2).sum() for p in model.parameters()))
            factor = 1.0 if clip is None else min(1.0, clip / float(norm))
            with torch.no_grad():
                for name, p in model.named_parameters():
                    g = p.grad * factor + config.weight_decay * p
                    m, v = moments[name]
                    m.mul_(config.beta1).add_(g, alpha=1 - config.beta1)
                    v.mul_(config.beta2).add_(g * g, alpha=1 - config.beta2)
                    m_hat, v_hat = m / (1 - config.beta1**step), v / (1 - config.beta2**step)
                    p -= config.learning_rate * m_hat / (v_hat.sqrt() + config.adam_epsilon)
    return {n: p.detach().numpy() - START[n] for n, p in model.named_parameters()}


@pytest.mark.parametrize("clip", [None, 0.25])
@pytest.mark.parametrize(("count", "epochs"), [(1, 1), (20, 1), (27, 2), (45, 1)])
def test_fedavg_is_adam_by_its_equations(count, epochs, clip):
    config = TrainingConfig(epochs=epochs)
    update, loss = fedavg_update(
        MODEL, START, examples(count), config, torch.Generator().manual_seed(5), clip
    )
    expected = reference_fedavg(examples(count), config, 5, clip)
    for name in update:
        np.testing.assert_allclose(update[name], expected[name], atol=2e-6)
    assert 0 < loss < 5
    assert config.steps(count) == epochs * int(np.ceil(count / 20))


def test_the_first_adam_step_is_about_the_sign_so_clipping_does_not_bound_it():
    config = TrainingConfig(weight_decay=0.0)
    model = ModelConfig(hidden=[6, 5], dropout=0.0)
    norms = []
    for clip in (None, 0.25, 1e-3):
        update, _ = fedavg_update(
            model, START, examples(20), config, torch.Generator().manual_seed(0), clip
        )
        moved = np.concatenate([u.ravel() for u in update.values()])
        norms.append(np.linalg.norm(moved))
        active = np.abs(moved) > 1e-5  # units that never fire have no gradient
        np.testing.assert_allclose(np.abs(moved[active]), config.learning_rate, rtol=0.01)
    assert norms[2] == pytest.approx(norms[0], rel=0.02)


def test_fedsgd_gradient_matches_finite_differences():
    model = ModelConfig(hidden=[6, 5], dropout=0.0)
    gradient, loss = fedsgd_gradient(
        model, START, examples(9), TrainingConfig(), torch.Generator().manual_seed(0), None
    )

    def mean_loss(arrays):
        network = Recogniser(model, 7, 4)
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
    gradient, _ = fedsgd_gradient(
        MODEL, START, examples(50), TrainingConfig(), torch.Generator().manual_seed(1), 0.01
    )
    norm = np.sqrt(sum(np.square(g).sum() for g in gradient.values()))
    assert norm == pytest.approx(0.01, rel=1e-3)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))[:20]
    data = examples(50)
    batch = Examples(data.features[order], data.labels[order])
    no_dropout = ModelConfig(hidden=[6, 5], dropout=0.0)
    args = (no_dropout, START, TrainingConfig(), torch.Generator().manual_seed(1), None)
    whole, _ = fedsgd_gradient(args[0], args[1], batch, *args[2:])
    drawn, _ = fedsgd_gradient(
        no_dropout, START, data, TrainingConfig(), torch.Generator().manual_seed(1), None
    )
    for name in whole:
        np.testing.assert_allclose(whole[name], drawn[name], atol=1e-6)


def test_a_seed_reproduces_an_update_exactly():
    updates = [
        fedavg_update(
            MODEL, START, examples(33), TrainingConfig(), torch.Generator().manual_seed(s), None
        )[0]
        for s in (1, 1, 2)
    ]
    name = "dense.0.weight"
    assert np.array_equal(updates[0][name], updates[1][name])
    assert not np.array_equal(updates[0][name], updates[2][name])
