"""Figures of attribute attacks, against scikit-learn and slow loops."""

import jsonschema
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve

from fedser.attacks.evaluation.attribute import FIGURES, evaluate_attack
from fedser.conf.schema import AdversaryConfig
from fedser.results.files import SCHEMA
from tests.attacks.evaluation.test_significance import brute_force, two_class

CLASSES = ["female", "male"]
AGES = ["old", "teen", "young"]
CONFIG = AdversaryConfig(bootstraps=400)
COLUMNS = ["federation", "fold", "client", "speaker", "gender"]


def write_truth(folder, rows):
    path = folder / "truth.parquet"
    pd.DataFrame(rows, columns=COLUMNS).to_parquet(path)
    return path


def frame(rows, leaked="all"):
    """Return two-class scores from (federation, client, log-odds); each row is another draw."""
    scores = pd.DataFrame(rows, columns=["federation", "client", "score_1"])
    return scores.assign(leaked=leaked, draw=range(len(scores)), score_0=0.0)


def study(folder, speakers=8, folds=2, draws=1, shift=1.0, between=0.5, seed=0):
    """Return scores and truth: two clients per speaker, one federation per fold."""
    rng = np.random.default_rng(seed)
    truth, scores = [], []
    for fold in range(folds):
        for client in range(2 * speakers):
            speaker = client // 2
            federation = f"private-fold{fold}"
            truth.append((federation, fold, client, f"s{speaker}", CLASSES[speaker % 2]))
            mean = shift * (speaker % 2) + between * rng.normal()
            scores += [(federation, client, mean + rng.normal()) for _ in range(draws)]
    return frame(scores), write_truth(folder, truth)


def by_fold(scores, path):
    return [g for _, g in scores.merge(pd.read_parquet(path)).groupby("fold")]


def by_age(folder, speakers=12, folds=1, draws=4, strength=1.0, seed=0):
    """Return log-probabilities of three ages and the truth, with one client per speaker."""
    rng = np.random.default_rng(seed)
    truth, rows = [], []
    for fold, client in np.ndindex(folds, speakers):
        label = client % 3
        truth.append((f"private-fold{fold}", fold, client, f"s{client}", AGES[label]))
        for draw in range(draws):
            scores = log_softmax(strength * np.eye(3)[label] + rng.normal(size=3))
            rows.append((f"private-fold{fold}", client, "3", draw, *scores))
    columns = ["federation", "client", "leaked", "draw", "score_0", "score_1", "score_2"]
    return pd.DataFrame(rows, columns=columns), write_truth(folder, truth)


def in_classes(fold):
    """Return labels, as numbers, and probabilities of the three ages."""
    scores = fold[["score_0", "score_1", "score_2"]].to_numpy()
    return fold["gender"].map(AGES.index).to_numpy(), softmax(scores, axis=1)


def test_auc_is_the_mean_over_folds(tmp_path):
    scores, path = study(tmp_path)
    (entry,) = evaluate_attack(scores, path, CLASSES, CONFIG, seed=0)
    folds = by_fold(scores, path)
    expected = np.mean([roc_auc_score(g["gender"] == "male", g["score_1"]) for g in folds])
    assert entry["auc"] == pytest.approx(expected)
    assert entry["leaked_updates"] == "all"
    assert (entry["victims"], entry["speakers"]) == (16, 8)
    low, high = entry["ci95_auc"]
    assert 0 <= low < entry["auc"] < high <= 1


def test_entries_keep_the_order_of_the_numbers_of_updates(tmp_path):
    scores, path = study(tmp_path)
    few = scores[scores["client"] < 6]  # speakers 0, 1 and 2
    mixed = pd.concat([part.assign(leaked=n) for n, part in [("20", scores), ("all", few)]])
    mixed = pd.concat([mixed, scores.assign(leaked="1", score_1=-scores["score_1"])])
    entries = evaluate_attack(mixed.sample(frac=1, random_state=0), path, CLASSES, CONFIG, 0)
    order = mixed.sample(frac=1, random_state=0)["leaked"].unique().tolist()
    assert [str(e["leaked_updates"]) for e in entries] == order
    found = {e["leaked_updates"]: e for e in entries}
    assert found[1]["auc"] == pytest.approx(1 - found[20]["auc"])
    assert (found["all"]["victims"], found["all"]["speakers"]) == (6, 3)


def test_a_constant_on_both_classes_changes_nothing(tmp_path):
    scores, path = study(tmp_path)
    moved = scores.assign(score_0=7.25, score_1=scores["score_1"] + 7.25)
    (one,), (two,) = (evaluate_attack(s, path, CLASSES, CONFIG, 0) for s in (scores, moved))
    assert one.pop("ece") == pytest.approx(two.pop("ece"))
    assert one == two


def test_uar_at_the_median_and_at_zero(tmp_path):
    scores, path = study(tmp_path, shift=1.5)

    def uar(threshold):
        folds = []
        for g in by_fold(scores, path):
            hit = (g["score_1"] > threshold(g["score_1"])) == (g["gender"] == "male")
            folds.append(hit.groupby(g["gender"]).mean().mean())
        return np.mean(folds)

    (entry,) = evaluate_attack(scores, path, CLASSES, CONFIG, seed=0)
    assert entry["uar_calibrated"] == pytest.approx(uar(lambda s: s.median()))
    assert entry["uar_fixed"] == pytest.approx(uar(lambda s: 0.0))
    shifted = scores.assign(score_1=scores["score_1"] + 100)
    (moved,) = evaluate_attack(shifted, path, CLASSES, CONFIG, seed=0)
    assert moved["uar_fixed"] == 0.5  # a fixed threshold overlooks the leak
    assert moved["uar_calibrated"] == pytest.approx(entry["uar_calibrated"])
    assert moved["auc"] == pytest.approx(entry["auc"])


def test_a_score_at_the_median_counts_as_the_first_class(tmp_path):
    truth = [("private-fold0", 0, c, f"s{c}", CLASSES[c // 2 % 2]) for c in range(5)]
    scores = frame([("private-fold0", c, s) for c, s in enumerate([2.0, 0.0, 1.0, 1.0, 0.5])])
    (entry,) = evaluate_attack(scores, write_truth(tmp_path, truth), CLASSES, CONFIG, seed=0)
    # above the median 1: client 0 alone, a woman as clients 1 and 4; clients 2 and 3 are men
    assert entry["uar_calibrated"] == pytest.approx((2 / 3 + 0) / 2)


def test_ties_count_half_and_chance_is_half(tmp_path):
    scores, path = study(tmp_path)
    (entry,) = evaluate_attack(scores.assign(score_1=1.0), path, CLASSES, CONFIG, seed=0)
    assert entry["auc"] == 0.5
    assert entry["ci95_auc"] == [0.5, 0.5]
    assert entry["tpr_at_fpr_01"] == entry["tpr_at_fpr_10"] == entry["advantage"] == 0.0


def test_a_perfect_attack(tmp_path):
    scores, path = study(tmp_path, shift=1000)
    (entry,) = evaluate_attack(scores, path, CLASSES, CONFIG, seed=0)
    assert entry["auc"] == entry["tpr_at_fpr_01"] == entry["uar_calibrated"] == 1.0
    assert entry["tpr_at_fpr_10"] == entry["advantage"] == 1.0
    assert entry["roc"]["tpr"] == [1.0] * 101


def test_the_interval_resamples_speakers_not_draws(tmp_path):
    scores, path = study(tmp_path, speakers=8, draws=12, between=1.0)
    (few,) = evaluate_attack(scores, path, CLASSES, CONFIG, seed=0)
    repeated = pd.concat([scores] * 20)  # repeated draws add no information
    (many,) = evaluate_attack(repeated, path, CLASSES, CONFIG, seed=0)
    assert np.diff(many["ci95_auc"]) == pytest.approx(np.diff(few["ci95_auc"]))


def test_the_interval_has_about_the_stated_coverage(tmp_path):
    truth = 0.664  # Phi(0.6 / sqrt 2)
    covered = 0
    for seed in range(60):
        scores, path = study(tmp_path, speakers=40, folds=1, shift=0.6, between=0.0, seed=seed)
        low, high = evaluate_attack(scores, path, CLASSES, CONFIG, seed=0)[0]["ci95_auc"]
        covered += low <= truth <= high
    # binomial(60, 0.95): 50 or fewer has probability 0.0005
    assert covered >= 51


def test_rates_and_advantage_are_means_over_the_folds_curves(tmp_path):
    scores, path = study(tmp_path, speakers=30, folds=3, shift=1.0)
    curves = [roc_curve(g["gender"] == "male", g["score_1"]) for g in by_fold(scores, path)]
    (entry,) = evaluate_attack(scores, path, CLASSES, CONFIG, seed=0)
    for key, rate in (("tpr_at_fpr_01", 0.01), ("tpr_at_fpr_10", 0.1)):
        expected = np.mean([tpr[fpr <= rate + 1e-9].max() for fpr, tpr, _ in curves])
        assert entry[key] == pytest.approx(expected)
    assert entry["advantage"] == pytest.approx(np.mean([(t - f).max() for f, t, _ in curves]))
    assert 0 < entry["tpr_at_fpr_01"] < entry["tpr_at_fpr_10"] < 1


def calibration_error(label, probability):
    true, said = calibration_curve(label, probability, n_bins=10)
    many = np.histogram(probability, bins=10, range=(0, 1))[0]
    return (many[many > 0] * abs(true - said)).sum() / len(label)


def test_calibration_error_is_that_of_the_reliability_diagram(tmp_path):
    scores, path = study(tmp_path, speakers=50, folds=3)
    errors = [
        calibration_error((g["gender"] == "male").to_numpy(), expit(g["score_1"]).to_numpy())
        for g in by_fold(scores, path)
    ]
    (entry,) = evaluate_attack(scores, path, CLASSES, CONFIG, seed=0)
    assert entry["ece"] == pytest.approx(np.mean(errors))


def test_calibration_error_is_small_only_if_calibrated(tmp_path):
    rng = np.random.default_rng(0)
    probability = rng.random(4000)
    male = rng.random(4000) < probability
    truth = [
        ("private-fold0", 0, c, f"s{c % 100}-{m}", CLASSES[int(m)]) for c, m in enumerate(male)
    ]
    path = write_truth(tmp_path, truth)
    scores = frame([("private-fold0", c, logit(p)) for c, p in enumerate(probability)])
    (entry,) = evaluate_attack(scores, path, CLASSES, CONFIG, seed=0)
    assert entry["ece"] < 0.035  # 400 a bin: about 0.8 * 0.5 / 20 of sampling error
    overconfident = scores.assign(score_1=scores["score_1"] + 3)
    assert evaluate_attack(overconfident, path, CLASSES, CONFIG, seed=0)[0]["ece"] > 0.2


def test_p_value_is_exact_if_some_folds_lack_a_class(tmp_path):
    rng = np.random.default_rng(2)
    truth = [
        (f"private-fold{f}", f, s, f"s{s}", CLASSES[s == 0])
        for f, s in np.ndindex(5, 5)
        if f != s  # the only man is a test speaker of the first fold
    ]
    path = write_truth(tmp_path, truth)
    scores = frame([(row[0], row[2], rng.normal()) for row in truth])
    folds = [
        two_class(g["score_1"].to_numpy(), g["client"].to_numpy(), g["client"].to_numpy() == 0)
        for _, g in scores.groupby("federation")
    ]
    (entry,) = evaluate_attack(scores, path, CLASSES, CONFIG, seed=0)
    assert entry["p_value"] == pytest.approx(brute_force(folds, [1, 0, 0, 0, 0]))
    assert entry["p_value"] != brute_force(folds[1:], [1, 0, 0, 0, 0])  # the folds of the AUC


@pytest.mark.parametrize("folds", [1, 3])
def test_each_of_three_classes_is_compared_with_the_rest(tmp_path, folds):
    scores, path = by_age(tmp_path, folds=folds)
    (entry,) = evaluate_attack(scores, path, AGES, CONFIG, seed=0)
    parts = [in_classes(g) for g in by_fold(scores, path)]
    auc = [roc_auc_score(y, p, multi_class="ovr", average="macro") for y, p in parts]
    assert entry["auc"] == pytest.approx(np.mean(auc))
    assert entry["ci95_auc"][0] < entry["auc"] < entry["ci95_auc"][1]
    assert entry["leaked_updates"] == 3
    fixed = [balanced_accuracy_score(y, p.argmax(axis=1)) for y, p in parts]
    assert entry["uar_fixed"] == pytest.approx(np.mean(fixed))
    errors = [[calibration_error(y == c, p[:, c]) for c in range(3)] for y, p in parts]
    assert entry["ece"] == pytest.approx(np.mean(errors))
    curves = [roc_curve(y == c, p[:, c]) for y, p in parts for c in range(3)]
    assert entry["advantage"] == pytest.approx(np.mean([(t - f).max() for f, t, _ in curves]))
    for key, rate in (("tpr_at_fpr_01", 0.01), ("tpr_at_fpr_10", 0.1)):
        expected = np.mean([tpr[fpr <= rate + 1e-9].max() for fpr, tpr, _ in curves])
        assert entry[key] == pytest.approx(expected)
    assert entry["roc"]["tpr"][10] == pytest.approx(entry["tpr_at_fpr_10"], abs=1e-4)


def test_calibration_undoes_a_preference_for_one_class(tmp_path):
    scores, path = by_age(tmp_path, speakers=30, strength=3.0)
    (plain,) = evaluate_attack(scores, path, AGES, CONFIG, seed=0)
    # log-odds, so that the median shifts each class by a constant
    odds = logit(np.exp(scores[["score_0", "score_1", "score_2"]]))
    expected = balanced_accuracy_score(
        pd.read_parquet(path).merge(scores)["gender"].map(AGES.index),
        (odds - odds.median()).to_numpy().argmax(axis=1),
    )
    assert plain["uar_calibrated"] == pytest.approx(expected)
    biased = scores.assign(score_1=scores["score_1"] + 50)
    (entry,) = evaluate_attack(biased, path, AGES, CONFIG, seed=0)
    assert entry["uar_fixed"] == pytest.approx(1 / 3)
    assert entry["uar_calibrated"] > 0.7


def test_a_class_is_left_out_only_in_folds_that_lack_it(tmp_path):
    scores, path = by_age(tmp_path, folds=2)
    truth = pd.read_parquet(path)
    young = truth["gender"] == "young"
    truth[~((truth["fold"] == 0) & young)].to_parquet(path)
    scores = scores.merge(pd.read_parquet(path)[["federation", "client"]])
    auc, recall = [], []
    for y, p in map(in_classes, by_fold(scores, path)):
        odds = logit(p)
        auc.append(np.mean([roc_auc_score(y == c, odds[:, c]) for c in np.unique(y)]))
        recall.append(np.mean([(p.argmax(axis=1)[y == c] == c).mean() for c in np.unique(y)]))
    (entry,) = evaluate_attack(scores, path, AGES, CONFIG, seed=0)
    assert entry["auc"] == pytest.approx(np.mean(auc))
    assert entry["uar_fixed"] == pytest.approx(np.mean(recall))


def test_a_perfect_attack_on_three_classes_and_extreme_scores(tmp_path):
    scores, path = by_age(tmp_path, speakers=30, strength=1e5)
    (entry,) = evaluate_attack(scores, path, AGES, CONFIG, seed=0)
    assert entry["auc"] == entry["uar_fixed"] == entry["advantage"] == 1.0
    assert entry["ece"] == pytest.approx(0, abs=1e-9)
    assert entry["p_value"] == 1 / 5001


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_rejected(tmp_path, value):
    scores, path = study(tmp_path)
    scores.loc[3, "score_1"] = value
    with pytest.raises(ValueError, match=r"1 value\(s\) of score_1 are NaN or infinite"):
        evaluate_attack(scores, path, CLASSES, CONFIG, seed=0)


def test_victims_of_one_class_give_no_figures(tmp_path):
    scores, path = study(tmp_path)
    pd.read_parquet(path).assign(gender="male").to_parquet(path)
    (entry,) = evaluate_attack(scores, path, CLASSES, CONFIG, seed=0)
    assert {entry[key] for key in FIGURES} == {None}
    assert entry["victims"] == 16


def test_a_fold_of_one_class_is_left_out(tmp_path):
    scores, path = study(tmp_path, folds=3)
    truth = pd.read_parquet(path)
    truth.loc[truth["fold"] == 0, "gender"] = "male"
    truth.to_parquet(path)
    (entry,) = evaluate_attack(scores, path, CLASSES, CONFIG, seed=0)
    folds = by_fold(scores, path)[1:]
    expected = np.mean([roc_auc_score(g["gender"] == "male", g["score_1"]) for g in folds])
    assert entry["auc"] == pytest.approx(expected)


def test_entries_follow_the_schema(tmp_path):
    entry = evaluate_attack(*study(tmp_path), CLASSES, CONFIG, seed=0)[0]
    others = as_recorded()
    attack = {"$defs": SCHEMA["$defs"], "$ref": "#/$defs/attack"}
    jsonschema.validate(entry | others, attack)
    assert not set(entry) & set(others)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(entry | others | {"eer": 0.3}, attack)


def as_recorded(**changes):
    """Return the other keys of an entry, besides its figures."""
    others = {"name": "linear", "attribute": "gender", "classes": CLASSES, "across": None}
    others |= {"layer": "first", "shadow_corpora": ["nemo"], "aware": False}
    others |= {"vantage": "attributed", "selection": "random", "combination": "log_odds"}
    return others | changes
