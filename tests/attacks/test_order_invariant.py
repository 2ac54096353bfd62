"""The correlation and statistics attacks: their numbers, and what they learn from them."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from attacks.correlation import Correlation
from attacks.linear import LinearAttack
from attacks.statistics import Statistics


def gradients(
    count: int = 3, hidden: int = 40, inputs: int = 9, seed: int = 0
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(inputs, inputs))
    weight = rng.normal(size=(count, hidden, inputs)) @ mixing + 0.5
    bias = rng.normal(size=(count, hidden))
    return {"dense.0.weight": weight.astype(np.float32), "dense.0.bias": bias.astype(np.float32)}


CORRELATION = Correlation(inverse_regularisation=1e-3, offsets=[1, 4, 50])
STATISTICS = Statistics(inverse_regularisation=1e-3)


def test_correlations_are_those_of_numpy():
    made = gradients()
    found = CORRELATION.features(made)
    assert found.shape == (3, 8 + 5)  # an offset beyond the width pairs nothing
    for row, weight in enumerate(made["dense.0.weight"]):
        matrix = np.corrcoef(weight.T.astype(np.float64))
        expected = np.concatenate([np.diag(matrix, 1), np.diag(matrix, 4)])
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_statistics_are_column_means_over_hidden_units():
    made = gradients()
    weight, bias = (made[n].astype(np.float64) for n in ("dense.0.weight", "dense.0.bias"))
    expected = np.concatenate(
        [
            np.abs(weight).mean(axis=1),
            (weight**2).mean(axis=1),
            (weight * np.sign(bias)[:, :, None]).mean(axis=1),
        ],
        axis=1,
    )
    np.testing.assert_allclose(STATISTICS.features(made), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attack", [CORRELATION, STATISTICS])
def test_the_order_of_hidden_units_does_not_matter(attack):
    made = gradients()
    order = np.random.default_rng(1).permutation(40)
    shuffled = {name: array[:, order] for name, array in made.items()}
    np.testing.assert_allclose(attack.features(shuffled), attack.features(made), atol=1e-5)


def test_correlations_ignore_scale_and_sign():
    made = gradients()
    scaled = {name: -1000 * array for name, array in made.items()}
    np.testing.assert_allclose(CORRELATION.features(scaled), CORRELATION.features(made), atol=1e-5)


def test_a_column_without_spread_correlates_with_nothing():
    made = gradients()
    made["dense.0.weight"][:, :, 2] = 7.0
    found = CORRELATION.features(made)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:, [1, 2]], 0, atol=1e-4)


def test_independent_noise_leaves_covariances_unbiased():
    rng = np.random.default_rng(0)
    hidden, updates = 256, 400
    base = rng.normal(size=(hidden, 1)) * np.ones((1, 2))  # two columns, correlation 1
    noisy = (base + rng.normal(0, 2, (updates, hidden, 2))).astype(np.float32)
    bias = np.zeros((updates, hidden), np.float32)
    found = Correlation(1e-3, [1]).features({"dense.0.weight": noisy, "dense.0.bias": bias})
    # attenuated to var / (var + 4) but not pushed to zero, and averaging recovers it
    expected = base.var() / (base.var() + 4)
    assert found.mean() == pytest.approx(expected, abs=4 * found.std() / np.sqrt(updates))
    assert found.std() == pytest.approx((1 - expected**2) / np.sqrt(hidden), rel=0.2)


def test_the_classifier_is_scaled_logistic_regression():
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(200, 15)) * 7 + 3).astype(np.float32)
    features[:, 4] = 2.5  # constant
    labels = (features[:, 0] + 5 * rng.normal(size=200) > 3).astype(int)
    attack = LinearAttack(inverse_regularisation=0.1)
    attack.fit(features.copy(), labels)
    scaler = StandardScaler().fit(features)
    reference = LogisticRegression(C=0.1, class_weight="balanced").fit(
        scaler.transform(features), labels
    )
    np.testing.assert_allclose(
        attack.score(features), reference.decision_function(scaler.transform(features)), atol=0.02
    )


def test_scores_are_linear_so_a_mean_of_features_scores_the_mean():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 5)).astype(np.float32)
    attack = LinearAttack(1.0)
    attack.fit(features.copy(), (features[:, 1] > 0).astype(int))
    mean = features[:7].mean(axis=0, keepdims=True)
    assert attack.score(mean)[0] == pytest.approx(attack.score(features[:7]).mean(), abs=1e-5)


def test_a_covariance_that_differs_between_groups_is_learned_across_unit_orders():
    rng = np.random.default_rng(0)

    def batch(count):
        labels = rng.integers(0, 2, count)
        weight = rng.normal(size=(count, 64, 6))
        weight[:, :, 1] += np.where(labels == 1, 0.6, -0.6)[:, None] * weight[:, :, 0]
        return CORRELATION.features(
            {
                "dense.0.weight": weight.astype(np.float32),
                "dense.0.bias": np.zeros((count, 64), np.float32),
            }
        ), labels

    attack = Correlation(1e-3, [1, 4, 50])
    attack.fit(*batch(300))
    features, labels = batch(300)
    assert roc_auc_score(labels, attack.score(features)) > 0.99
