"""The convolutional attack of 2022: its network, normalisation and training."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from fedser.attacks.algorithms import cnn
from fedser.attacks.algorithms.base import ShadowUpdates
from fedser.attacks.algorithms.cnn import Cnn, GradientCnn, pooling
from fedser.common.errors import UserError

H, D = 64, 128
QUICK = {"epochs": 4, "settling_epochs": 1, "learning_rate": 1e-3}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Use one thread, because several threads are slower on such small networks."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gradients(count, rows=H, columns=D, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "dense.0.weight": rng.normal(size=(count, rows, columns)).astype(np.float32),
        "dense.0.bias": rng.normal(size=(count, rows)).astype(np.float32),
        "dense.1.weight": np.zeros((count, 2, 3), np.float32),
    }


def planted(labels, seed):
    """Return noise with one block of columns per class, raised by one standard deviation."""
    made = gradients(len(labels), seed=seed)
    for row, label in enumerate(labels):
        made["dense.0.weight"][row, :, 32 * label : 32 * (label + 1)] += 1
    return made


def stream(made, labels, size=17):
    """Return a stream of examples in batches that do not divide their number."""
    starts = range(0, len(labels), size)
    return lambda: (
        ShadowUpdates({n: a[s : s + size] for n, a in made.items()}, labels[s : s + size])
        for s in starts
    )


def permute(labels):
    """Return labels that are independent of the true classes."""
    return np.arange(len(labels)) // 2 % 2


def trained(classes=2, count=80, permuted=False, **settings):
    attack = Cnn(**(QUICK | settings))
    labels = np.arange(count) % classes
    attack.fit(stream(planted(labels, seed=1), permute(labels) if permuted else labels))
    return attack


def held_out(attack, classes=2, count=60):
    labels = np.arange(count) % classes
    return labels, attack.score(attack.features(planted(labels, seed=3)))


@pytest.mark.parametrize(
    ("rows", "columns", "last_map"),
    [  # inputs of the first dense layer in the published code, less the bias
        (256, 988, 3840),
        (256, 768, 3072),
        (256, 512, 3200),
        (256, 256, 4096),
        (128, 256, 2048),
        (4, 128, 1024),
    ],
)
def test_the_network_has_the_published_sizes(rows, columns, last_map):
    with torch.device("meta"):
        network = GradientCnn(rows, columns, classes=2, dropout=0.2)
        found = network(torch.empty(3, rows * columns + rows))
    assert found.shape == (3, 2)
    assert network.dense[0].in_features == last_map + rows
    convolutions = (25 * 1 + 1) * 16 + (25 * 16 + 1) * 32 + (25 * 32 + 1) * 64 + 2 * 64
    dense = (last_map + rows + 1) * 256 + 257 * 128 + 129 * 2
    assert sum(p.numel() for p in network.parameters()) == convolutions + dense


def test_pooling_before_relu_changes_nothing():
    torch.manual_seed(0)
    network = GradientCnn(H, D, classes=2, dropout=0.0).eval()
    x = torch.randn(4, H * D + H)
    order = [[0, 2, 1], [4, 6, 5], [8, 9, 11, 10]]  # convolution, norm, ReLU, pooling
    maps = x[:, : H * D].reshape(4, 1, H, D)
    for index in sum(order, []):
        maps = network.convolutions[index](maps)
    dense = network.dense(torch.cat([maps.flatten(1), x[:, H * D :]], dim=1))
    torch.testing.assert_close(network(x), torch.log_softmax(dense, dim=1))


def test_features_are_the_first_layers_weight_and_bias():
    made = gradients(3)
    found = Cnn().features(made)
    assert found.dtype == np.float32 and found.shape == (3, H * D + H)
    np.testing.assert_array_equal(found[:, : H * D].reshape(3, H, D), made["dense.0.weight"])
    np.testing.assert_array_equal(found[:, H * D :], made["dense.0.bias"])


@pytest.mark.parametrize(("rows", "columns"), [(2, 128), (64, 5)])
def test_a_layer_that_is_too_small_is_rejected(rows, columns):
    with pytest.raises(UserError, match=rf"adversary\.layers: .*{rows} x {columns} .*3 x 6"):
        Cnn().features(gradients(1, rows, columns))
    assert pooling(3, 6) == [(1, (1, 1)), (2, (1, 4)), (2, (1, 4))]


@pytest.mark.parametrize("classes", [2, 3])
def test_a_planted_signal_is_found(classes):
    labels, found = held_out(trained(classes), classes)
    assert found.shape == (60, classes)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-5)
    for c in range(classes):
        assert roc_auc_score(labels == c, found[:, c]) > 0.9


def test_permuted_labels_give_chance_level():
    labels, found = held_out(trained(permuted=True))
    assert 0.3 < roc_auc_score(permute(labels), found[:, 1]) < 0.7


def test_updates_are_normalised_with_shadow_statistics_alone():
    attack = trained(epochs=1)
    features = Cnn().features(planted(np.arange(80) % 2, seed=1))
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    np.testing.assert_allclose(attack._mean, mean, atol=1e-6)
    np.testing.assert_allclose(attack._spread, deviation + 1e-5, rtol=1e-5)
    victims = attack.features(planted(np.arange(30) % 2, seed=3)) * 5 + 1
    kept = victims.copy()
    together = attack.score(victims)
    np.testing.assert_array_equal(victims, kept)
    with torch.no_grad():
        scaled = torch.from_numpy((victims - mean) / (deviation + 1e-5))
        expected = attack._network.float()(scaled).numpy()
    np.testing.assert_allclose(together, expected, atol=0.05)  # bfloat16
    alone = np.concatenate([attack.score(victims[[row]]) for row in range(30)])
    np.testing.assert_allclose(alone, together, atol=0.05)


def test_units_do_not_matter():
    first, second = Cnn(**QUICK), Cnn(**QUICK)
    labels = np.arange(40) % 2
    made = planted(labels, seed=1)
    scaled = {name: array * np.float32(1024) for name, array in made.items()}  # exact in float32
    first.fit(stream(made, labels))
    second.fit(stream(scaled, labels))
    found = first.score(first.features(made))
    np.testing.assert_allclose(found, second.score(second.features(scaled)), atol=0.05)


@pytest.mark.parametrize("size", [40, 7])
def test_the_batches_of_the_stream_do_not_matter(size):
    labels = np.arange(40) % 2
    made = planted(labels, seed=1)
    whole, parts = Cnn(**QUICK), Cnn(**QUICK)
    whole.fit(stream(made, labels, size=40))
    parts.fit(stream(made, labels, size))
    scores = [attack.score(attack.features(made)) for attack in (whole, parts)]
    assert scores[0].shape == (40, 2)
    np.testing.assert_array_equal(*scores)


def test_results_depend_on_the_seed_and_change_no_generator():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    scores = [held_out(trained(count=40, seed=seed))[1] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(scores[0], scores[1])
    assert np.abs(scores[0] - scores[2]).max() > 1e-3


def scripted(monkeypatch, recalls):
    """Replace the validation UAR of each epoch after the settling ones."""
    left = iter(recalls)
    monkeypatch.setattr(cnn, "uar", lambda confusion: next(left))


def test_the_best_epoch_is_restored(monkeypatch):
    scripted(monkeypatch, [0.5, 0.9, 0.9, 0.7])
    chosen = held_out(trained(count=40, epochs=6, settling_epochs=2))[1]
    scripted(monkeypatch, [0.5])  # the same steps up to the first best epoch
    last = held_out(trained(count=40, epochs=4, settling_epochs=3))[1]
    np.testing.assert_array_equal(chosen, last)


def test_settling_epochs_are_never_chosen(monkeypatch):
    scripted(monkeypatch, [0.1])  # only the last epoch computes a UAR
    trained(count=40, epochs=3, settling_epochs=31)


def test_training_stops_if_the_validation_loss_stops_falling(monkeypatch):
    losses = iter([3.0, 2.0, 2.5, 1.0, *[1.5] * 6])
    evaluate = Cnn._evaluate

    def rising(attack, batches):
        found = evaluate(attack, batches)
        return torch.zeros_like(found) - next(losses)

    monkeypatch.setattr(Cnn, "_evaluate", rising)
    trained(count=40, epochs=50, settling_epochs=1)
    assert not list(losses)
