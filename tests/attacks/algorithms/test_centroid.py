import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from fedser.attacks.algorithms.base import ShadowUpdates
from fedser.attacks.algorithms.centroid import Centroid


def gradients(count, seed=0, shift=0.0, classes=2):
    """Return updates; the entries of class c are larger by `shift` times c."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    of_class = shift * labels
    made = {
        "dense.0.weight": 5 * rng.normal(size=(count, 6, 5)) + of_class[:, None, None],
        "dense.0.bias": rng.normal(size=(count, 6)) * 1e-3 * (1 + of_class[:, None]),
    }
    return {name: array.astype(np.float32) for name, array in made.items()}, labels


def fitted(made, labels, size=13):
    attack = Centroid(None)
    batches = [
        ShadowUpdates({n: a[s : s + size] for n, a in made.items()}, labels[s : s + size])
        for s in range(0, len(labels), size)
    ]
    attack.fit(lambda: iter(batches))
    return attack


def test_features_are_four_statistics_of_each_tensor():
    made, _ = gradients(3)
    found = Centroid(None).features(made)
    assert found.shape == (3, 8)
    for row in range(3):
        flats = [made[name][row].ravel() for name in made]
        expected = [f(flat) for flat in flats for f in (np.mean, np.std, np.min, np.max)]
        np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
def test_decisions_are_those_of_nearest_centroids(shift, classes):
    made, labels = gradients(60, 1, shift, classes)
    attack = fitted(made, labels)
    features = attack.features(made)
    victims = attack.features(gradients(200, 2, shift, classes)[0])
    spread = features.std(axis=0)
    oracle = NearestCentroid().fit(features / spread, labels)
    scores = attack.score(victims)
    assert scores.shape == (200, classes)
    assert (scores.argmax(axis=1) == oracle.predict(victims / spread)).all()
    distances = np.linalg.norm((victims / spread)[:, None] - oracle.centroids_, axis=2)
    np.testing.assert_allclose(scores, -distances, rtol=1e-4)


def test_units_and_constant_statistics_do_not_matter():
    made, labels = gradients(40, 2, 0.5)
    made["dense.1.bias"] = np.full((40, 3), 7.0, np.float32)
    scaled = made | {"dense.0.weight": made["dense.0.weight"] * np.float32(2**20)}
    first, second = fitted(made, labels), fitted(scaled, labels)
    np.testing.assert_allclose(
        first.score(first.features(made)), second.score(second.features(scaled)), rtol=1e-4
    )


def test_scores_are_minus_the_scaled_distance():
    bias = np.array([[0.0], [1.0], [4.0], [5.0]], np.float32)  # of each: mean, 0, and twice more
    attack = fitted({"dense.0.bias": bias}, np.array([0, 0, 1, 1]))
    scores = attack.score(attack.features({"dense.0.bias": np.array([[0.5], [2.5]], np.float32)}))
    apart = np.sqrt(3) * 4 / np.std([0, 1, 4, 5])
    np.testing.assert_allclose(scores, [[0, -apart], [-apart / 2, -apart / 2]], atol=1e-5)
