"""The linear classifier of attacks, against scikit-learn."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from fedser.attacks.algorithms.linear import LinearClassifier, class_scores


def fitted(features, labels, inverse_regularisation=0.1):
    classifier = LinearClassifier(inverse_regularisation)
    classifier.fit(features.copy(), labels)
    return classifier


@pytest.mark.parametrize("classes", [2, 3])
def test_the_classifier_is_scaled_logistic_regression(classes):
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(200, 15)) * 7 + 3).astype(np.float32)
    features[:, 4] = 2.5  # constant
    labels = np.digitize(features[:, 0] + 5 * rng.normal(size=200), [0, 6][: classes - 1])
    found = class_scores(fitted(features, labels).decide(features))
    scaler = StandardScaler().fit(features)
    reference = LogisticRegression(C=0.1, class_weight="balanced").fit(
        scaler.transform(features), labels
    )
    assert found.shape == (200, classes)
    expected = reference.predict_log_proba(scaler.transform(features))
    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_decision_on_mean_numbers_is_the_mean_decision(classes):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 5)).astype(np.float32)
    attack = fitted(features, np.digitize(features[:, 1], [0, 0.7][: classes - 1]), 1.0)
    assert attack.decide(features).shape == (60, 1 if classes == 2 else 3)
    mean = attack.decide(features[:7].mean(axis=0, keepdims=True))[0]
    np.testing.assert_allclose(mean, attack.decide(features[:7]).mean(axis=0), atol=1e-5)
