"""Fusion of attacks, on random scores with known AUC."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from fedser.attacks.algorithms.fusion import Fusion

SHADOW, VICTIMS = 2000, 3000


def attack(labels, shift, seed, leaked="1", classes=2):
    """Return scores: unit noise, plus `shift` for the client's own class."""
    rng, count = np.random.default_rng(seed), len(labels)
    scores = rng.normal(size=(count, classes))
    scores[np.arange(count), labels] += shift
    frame = pd.DataFrame(
        {"federation": "private-fold0", "client": np.arange(count), "leaked": leaked, "draw": 0}
    )
    return frame.assign(**{f"score_{c}": scores[:, c] for c in range(classes)})


def study(*shifts, leaked="1", classes=2, seed=0):
    """Return scores of shadow clients and victims by each attack, and the victims' labels."""
    rng, names = np.random.default_rng(seed), [f"attack{i}" for i in range(len(shifts))]
    own, labels = (rng.integers(0, classes, n) for n in (SHADOW, VICTIMS))
    seeds = np.arange(len(shifts)) + 100 * (seed + 1)
    known, unknown = (
        {
            name: attack(of, shift, [s, side], leaked, classes)
            for name, shift, s in zip(names, shifts, seeds, strict=True)
        }
        for side, of in enumerate((own, labels))
    )
    return {n: f.assign(label=own, group=0) for n, f in known.items()}, unknown, labels


def fuse(shadow, victims, inverse_regularisation=1.0):
    return Fusion(list(victims), inverse_regularisation).fuse(shadow, victims)


def auc(frame, labels):
    return roc_auc_score(labels, frame["score_1"] - frame["score_0"])


def theory(*shifts):
    """Return the best AUC of independent attacks, with distance sqrt(2) shift between classes."""
    return norm.cdf(np.linalg.norm(shifts))


@pytest.mark.parametrize("shifts", [(1.0, 0.0), (0.0, 1.0)])
def test_a_useless_attack_does_no_harm(shifts):
    shadow, victims, labels = study(*shifts)
    alone = auc(victims[f"attack{np.argmax(shifts)}"], labels)
    assert auc(fuse(shadow, victims), labels) == pytest.approx(alone, abs=0.005)
    assert alone == pytest.approx(theory(1.0), abs=0.02)


def test_two_informative_attacks_are_better_together():
    shadow, victims, labels = study(0.6, 0.5)
    alone = [auc(frame, labels) for frame in victims.values()]
    fused = auc(fuse(shadow, victims), labels)
    assert fused > max(alone) + 0.03
    assert fused == pytest.approx(theory(0.6, 0.5), abs=0.02)


def test_shift_and_scale_of_a_group_change_nothing():
    shadow, victims, labels = study(0.6, 0.5)
    plain = fuse(shadow, victims)

    def split(frame, column, names):
        half = np.arange(len(frame)) % 2
        moved = {"score_1": (frame["score_1"] - frame["score_0"]) * (1 - 0.9 * half) + 30 * half}
        return frame.assign(score_0=0.0, **moved, **{column: np.array(names)[half]})

    found = fuse(
        {n: split(f, "group", [0, 1]) for n, f in shadow.items()},
        {n: split(f, "federation", ["private-fold0", "private-fold1"]) for n, f in victims.items()},
    )
    assert auc(plain, labels) > 0.75
    # Means and spreads of halves differ a little from those of the whole.
    assert auc(found, labels) == pytest.approx(auc(plain, labels), abs=0.01)


def test_an_attack_that_is_wrong_on_shadow_clients_is_reversed():
    shadow, victims, labels = study(-1.0, 0.0)
    assert auc(fuse(shadow, victims), labels) == pytest.approx(theory(1.0), abs=0.02)


def test_each_number_of_leaked_updates_has_its_own_weights():
    one, many = study(1.0, 0.0, leaked="1"), study(0.0, 1.0, leaked="all", seed=5)
    shadow, victims = (
        {n: pd.concat([one[side][n], many[side][n]], ignore_index=True) for n in one[side]}
        for side in (0, 1)
    )
    found = fuse(shadow, victims)
    assert found["leaked"].unique().tolist() == ["1", "all"]
    for leaked, (own, unknown, labels) in {"1": one, "all": many}.items():
        rows = found[found["leaked"] == leaked].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, fuse(own, unknown))
        assert auc(rows, labels) == pytest.approx(theory(1.0), abs=0.02)


def test_three_classes_are_distinguished():
    shadow, victims, labels = study(1.2, 0.8, 0.0, classes=3)
    found = fuse(shadow, victims)
    scores = found[["score_0", "score_1", "score_2"]].to_numpy()
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, rtol=1e-5)
    hits = [(scores.argmax(axis=1) == labels).mean()]
    for frame in victims.values():
        hits.append((frame.filter(like="score_").to_numpy().argmax(axis=1) == labels).mean())
    assert hits[0] > hits[1] + 0.03 > hits[2] + 0.03 > hits[3] + 0.03
    # The best classifier adds the scores, weighted by their shifts.
    ideal = sum(
        shift * frame.filter(like="score_").to_numpy()
        for shift, frame in zip((1.2, 0.8, 0.0), victims.values(), strict=True)
    )
    assert hits[0] == pytest.approx((ideal.argmax(axis=1) == labels).mean(), abs=0.01)


def test_two_classes_agree_with_scikit_learn():
    shadow, victims, _ = study(0.7, 0.3)
    found = fuse(shadow, victims, inverse_regularisation=0.01)

    def odds(frames):
        return np.stack([f["score_1"] - f["score_0"] for f in frames.values()], axis=1)

    known, unknown = (StandardScaler().fit_transform(odds(side)) for side in (shadow, victims))
    model = LogisticRegression(C=0.01, class_weight="balanced")
    model.fit(known, shadow["attack0"]["label"])
    expected = model.predict_log_proba(unknown)
    np.testing.assert_allclose(found[["score_0", "score_1"]], expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.sampled_from([2, 3]))
def test_a_constant_on_all_classes_changes_nothing(seed, classes):
    shadow, victims, _ = study(0.8, 0.4, classes=classes)
    plain, rng = fuse(shadow, victims), np.random.default_rng(seed)

    def moved(frame):
        added = rng.normal(0, 50, len(frame))
        return frame.assign(**{c: frame[c] + added for c in frame.filter(like="score_")})

    found = fuse(
        {n: moved(f) for n, f in shadow.items()}, {n: moved(f) for n, f in victims.items()}
    )
    pd.testing.assert_frame_equal(found, plain, rtol=1e-3, atol=1e-3)


def test_scores_are_joined_by_client_in_any_order_of_rows():
    shadow, victims, labels = study(0.6, 0.5)
    plain = fuse(shadow, victims)
    mixed = {"attack0": victims["attack0"], "attack1": victims["attack1"].sample(frac=1.0)}
    found = fuse(shadow, mixed).sort_values("client", ignore_index=True)
    pd.testing.assert_frame_equal(found, plain)
    assert list(found) == ["federation", "client", "leaked", "draw", "score_0", "score_1"]


def test_names_with_a_common_beginning_are_distinguished():
    shadow, victims, labels = study(1.0, 0.0)
    names = {"attack0": "cnn", "attack1": "cnn score"}
    found = fuse(*({names[n]: f for n, f in side.items()} for side in (shadow, victims)))
    pd.testing.assert_frame_equal(found, fuse(shadow, victims))
