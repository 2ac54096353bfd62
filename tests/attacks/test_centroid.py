import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from attacks.centroid import Centroid


def gradients(count, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "dense.0.weight": rng.normal(size=(count, 6, 5)).astype(np.float32),
        "dense.0.bias": rng.normal(size=(count, 6)).astype(np.float32),
    }


def test_features_are_four_statistics_of_each_tensor():
    made = gradients(3)
    found = Centroid().features(made)
    assert found.shape == (3, 8)
    for row in range(3):
        flats = [made[name][row].ravel() for name in made]
        expected = [f(flat) for flat in flats for f in (np.mean, np.std, np.min, np.max)]
        np.testing.assert_allclose(found[row], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shift", [0.0, 0.5, 3.0])
def test_decisions_are_those_of_nearest_centroids(shift):
    rng = np.random.default_rng(1)
    scale = rng.uniform(0.1, 10, 8)
    labels = rng.integers(0, 2, 60)
    features = (rng.normal(size=(60, 8)) + shift * labels[:, None]) * scale
    victims = rng.normal(size=(200, 8)) * scale
    attack = Centroid()
    attack.fit(features.copy(), labels)
    scaled = features / features.std(axis=0)
    oracle = NearestCentroid().fit(scaled, labels)
    assert ((attack.score(victims) > 0) == oracle.predict(victims / features.std(axis=0))).all()


def test_units_do_not_matter_nor_does_a_constant_statistic():
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], 20)
    features = np.column_stack([rng.normal(labels), np.full(40, 7.0)])
    first, second = Centroid(), Centroid()
    first.fit(features, labels)
    second.fit(features * [1e6, 1.0], labels)
    np.testing.assert_allclose(
        first.score(features), second.score(features * [1e6, 1.0]), rtol=1e-4
    )


def test_scores_grow_towards_the_second_class():
    labels = np.array([0, 0, 1, 1])
    attack = Centroid()
    attack.fit(np.array([[0.0], [1.0], [4.0], [5.0]]), labels)
    scores = attack.score(np.array([[0.0], [2.5], [5.0]]))
    assert scores[0] < 0 < scores[2] and scores[1] == pytest.approx(0, abs=1e-6)
