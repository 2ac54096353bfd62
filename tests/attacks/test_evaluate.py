from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score, roc_curve

from attacks.evaluate import evaluate_attack
from attacks.significance import FoldSamples
from client.errors import UserError
from conf.schema import AdversaryConfig
from tests.attacks.test_significance import brute_force

CLASSES = ["female", "male"]
ONCE = AdversaryConfig(leaked_updates=["all"], draws=1, bootstraps=400)


def study(folder: Path, speakers=8, folds=2, updates=12, shift=1.0, between=0.5, seed=0):
    """Scores of a federation a fold; the speaker's own offset dwarfs nothing but counts."""
    rng = np.random.default_rng(seed)
    truth, scores = [], []
    for fold in range(folds):
        for client in range(2 * speakers):
            speaker = client // 2
            gender = CLASSES[speaker % 2]
            truth.append((f"private-fold{fold}", fold, client, f"s{speaker}", gender))
            mean = shift * (speaker % 2) + between * rng.normal()
            scores += [(f"private-fold{fold}", client, mean + rng.normal()) for _ in range(updates)]
    path = folder / "truth.parquet"
    pd.DataFrame(truth, columns=["federation", "fold", "client", "speaker", "gender"]).to_parquet(
        path
    )
    return pd.DataFrame(scores, columns=["federation", "client", "score"]), path


def expected_auc(scores, path):
    truth = pd.read_parquet(path)
    means = scores.groupby(["federation", "client"])["score"].mean().reset_index().merge(truth)
    folds = [g for _, g in means.groupby("fold")]
    return np.mean([roc_auc_score(g["gender"] == "male", g["score"]) for g in folds])


def drawn(scores, path, combine="mean"):
    """Every client's combined score and truth, in a frame a fold."""
    means = scores.groupby(["federation", "client"])["score"].agg(combine).reset_index()
    return [g for _, g in means.merge(pd.read_parquet(path)).groupby("fold")]


def by_hand(folder, sent):
    """Scores and truth of two clients a speaker, from (round, score) pairs of each client."""
    truth = [("private-fold0", 0, c, f"s{c // 2}", CLASSES[c // 2 % 2]) for c in range(len(sent))]
    path = folder / "truth.parquet"
    columns = ["federation", "fold", "client", "speaker", "gender"]
    pd.DataFrame(truth, columns=columns).to_parquet(path)
    rows = [("private-fold0", c, r, s) for c, pairs in enumerate(sent) for r, s in pairs]
    return pd.DataFrame(rows, columns=["federation", "client", "round", "score"]), path


def test_auc_is_the_mean_over_folds(tmp_path):
    scores, path = study(tmp_path)
    (entry,) = evaluate_attack(scores, path, CLASSES, ONCE, seed=0)
    assert entry["auc"] == pytest.approx(expected_auc(scores, path))
    assert entry["leaked_updates"] == "all"
    assert (entry["victims"], entry["speakers"]) == (16, 8)
    low, high = entry["ci95_auc"]
    assert 0 <= low < entry["auc"] < high <= 1


def test_uar_at_the_median_and_at_zero(tmp_path):
    scores, path = study(tmp_path, shift=1.5)
    truth = pd.read_parquet(path)
    means = scores.groupby(["federation", "client"])["score"].mean().reset_index().merge(truth)

    def uar(threshold):
        folds = []
        for _, g in means.groupby("fold"):
            hit = (g["score"] > threshold(g["score"])) == (g["gender"] == "male")
            folds.append(hit.groupby(g["gender"]).mean().mean())
        return np.mean(folds)

    (entry,) = evaluate_attack(scores, path, CLASSES, ONCE, seed=0)
    assert entry["uar_calibrated"] == pytest.approx(uar(lambda s: s.median()))
    assert entry["uar_fixed"] == pytest.approx(uar(lambda s: 0.0))
    shifted = scores.assign(score=scores["score"] + 100)
    (moved,) = evaluate_attack(shifted, path, CLASSES, ONCE, seed=0)
    assert moved["uar_fixed"] == 0.5  # a fixed threshold overlooks the leak
    assert moved["uar_calibrated"] == pytest.approx(entry["uar_calibrated"])
    assert moved["auc"] == pytest.approx(entry["auc"])


def test_ties_count_half_and_chance_is_half(tmp_path):
    scores, path = study(tmp_path)
    (entry,) = evaluate_attack(scores.assign(score=1.0), path, CLASSES, ONCE, seed=0)
    assert entry["auc"] == 0.5
    assert entry["ci95_auc"] == [0.5, 0.5]
    assert entry["tpr_at_fpr_01"] == entry["tpr_at_fpr_10"] == entry["advantage"] == 0.0


def test_a_perfect_attack(tmp_path):
    scores, path = study(tmp_path, shift=1000)
    (entry,) = evaluate_attack(scores, path, CLASSES, ONCE, seed=0)
    assert entry["auc"] == entry["tpr_at_fpr_01"] == entry["uar_calibrated"] == 1.0
    assert entry["tpr_at_fpr_10"] == entry["advantage"] == 1.0
    assert entry["roc"]["tpr"] == [1.0] * 101


def test_more_leaked_updates_average_more_noise_away(tmp_path):
    scores, path = study(tmp_path, speakers=200, shift=0.5, between=0.0)
    config = replace(ONCE, leaked_updates=[1, 4, "all"], draws=10)
    one, four, every = evaluate_attack(scores, path, CLASSES, config, seed=0)
    assert one["auc"] < four["auc"] < every["auc"]
    # two unit-variance normals at distance d: AUC = Phi(d / sqrt 2)
    assert one["auc"] == pytest.approx(0.638, abs=0.02)
    assert four["auc"] == pytest.approx(0.760, abs=0.02)


def test_clients_with_fewer_updates_give_all_they_sent(tmp_path):
    scores, path = study(tmp_path, updates=3)
    config = replace(ONCE, leaked_updates=[20, "all"], draws=4)
    many, every = evaluate_attack(scores, path, CLASSES, config, seed=0)
    assert many["auc"] == pytest.approx(every["auc"])


def test_the_interval_resamples_speakers_not_updates(tmp_path):
    scores, path = study(tmp_path, speakers=8, updates=12, between=1.0)
    (few,) = evaluate_attack(scores, path, CLASSES, ONCE, seed=0)
    repeated = pd.concat([scores] * 20)  # more of the same updates tell nothing new
    (many,) = evaluate_attack(repeated, path, CLASSES, ONCE, seed=0)
    assert np.diff(many["ci95_auc"]) == pytest.approx(np.diff(few["ci95_auc"]))


def test_the_interval_covers_the_truth_about_as_often_as_it_says(tmp_path):
    truth = 0.664  # Phi(0.6 / sqrt 2)
    covered = 0
    for seed in range(60):
        scores, path = study(
            tmp_path, speakers=40, folds=1, updates=1, shift=0.6, between=0.0, seed=seed
        )
        low, high = evaluate_attack(scores, path, CLASSES, ONCE, seed=0)[0]["ci95_auc"]
        covered += low <= truth <= high
    # binomial(60, 0.95): 50 or fewer has probability 0.0005
    assert covered >= 51


def test_rates_and_advantage_are_those_of_the_curves_of_each_fold(tmp_path):
    scores, path = study(tmp_path, speakers=30, folds=3, shift=1.0)
    curves = [roc_curve(g["gender"] == "male", g["score"]) for g in drawn(scores, path)]
    (entry,) = evaluate_attack(scores, path, CLASSES, ONCE, seed=0)
    for key, rate in (("tpr_at_fpr_01", 0.01), ("tpr_at_fpr_10", 0.1)):
        expected = np.mean([tpr[fpr <= rate + 1e-9].max() for fpr, tpr, _ in curves])
        assert entry[key] == pytest.approx(expected)
    assert entry["advantage"] == pytest.approx(np.mean([(t - f).max() for f, t, _ in curves]))
    assert 0 < entry["tpr_at_fpr_01"] < entry["tpr_at_fpr_10"] < 1


@pytest.mark.parametrize("combination", ["mean", "sum"])
def test_calibration_error_is_that_of_the_reliability_diagram(tmp_path, combination):
    scores, path = study(tmp_path, speakers=50, folds=3)
    errors = []
    for g in drawn(scores, path, combination):
        male, probability = (g["gender"] == "male").to_numpy(), expit(g["score"]).to_numpy()
        true, said = calibration_curve(male, probability, n_bins=10)
        many = np.histogram(probability, bins=10, range=(0, 1))[0]
        errors.append((many[many > 0] * abs(true - said)).sum() / len(g))
    config = replace(ONCE, combination=combination)
    (entry,) = evaluate_attack(scores, path, CLASSES, config, seed=0)
    assert entry["ece"] == pytest.approx(np.mean(errors))


def test_probabilities_that_hold_have_little_calibration_error_and_wrong_ones_much(tmp_path):
    rng = np.random.default_rng(0)
    probability = rng.random(4000)
    sent = [[(1, logit(p))] for p in probability]
    scores, path = by_hand(tmp_path, sent)
    truth = pd.read_parquet(path)
    truth["speaker"] = [f"s{c % 100}-{m}" for c, m in enumerate(rng.random(4000) < probability)]
    truth["gender"] = np.where(truth["speaker"].str.endswith("True"), "male", "female")
    truth.to_parquet(path)
    (entry,) = evaluate_attack(scores, path, CLASSES, ONCE, seed=0)
    assert entry["ece"] < 0.035  # 400 a bin: about 0.8 * 0.5 / 20 of sampling error
    boastful = scores.assign(score=scores["score"] + 3)
    assert evaluate_attack(boastful, path, CLASSES, ONCE, seed=0)[0]["ece"] > 0.2
    certain = scores.assign(score=np.where(truth["gender"] == "male", -800.0, 800.0))
    assert evaluate_attack(certain, path, CLASSES, ONCE, seed=0)[0]["ece"] == pytest.approx(1)


def test_p_value_of_speakers_that_are_told_apart(tmp_path):
    scores, path = study(tmp_path, speakers=9, shift=1000)
    (entry,) = evaluate_attack(scores, path, CLASSES, ONCE, seed=0)
    assert entry["p_value"] == pytest.approx(1 / 126)  # 4 of 9, however many clients and folds
    (chance,) = evaluate_attack(scores.assign(score=1.0), path, CLASSES, ONCE, seed=0)
    assert chance["p_value"] == 1


def test_p_value_is_exact_where_some_folds_lack_a_class(tmp_path):
    rng = np.random.default_rng(2)
    truth = [
        (f"private-fold{f}", f, s, f"s{s}", CLASSES[s == 0])
        for f, s in np.ndindex(5, 5)
        if f != s  # the only man is a test speaker of the first fold
    ]
    columns = ["federation", "fold", "client", "speaker", "gender"]
    path = tmp_path / "truth.parquet"
    pd.DataFrame(truth, columns=columns).to_parquet(path)
    scores = pd.DataFrame(truth, columns=columns)[["federation", "client"]]
    scores["score"] = rng.normal(size=len(scores))
    folds = [
        FoldSamples(g["score"].to_numpy(), g["client"].to_numpy(), (g["client"] == 0).to_numpy())
        for _, g in scores.groupby("federation")
    ]
    (entry,) = evaluate_attack(scores, path, CLASSES, ONCE, seed=0)
    assert entry["p_value"] == pytest.approx(brute_force(folds, [1, 0, 0, 0, 0]))
    assert entry["p_value"] != brute_force(folds[1:], [1, 0, 0, 0, 0])  # the folds of the AUC


@pytest.mark.parametrize(
    ("selection", "leaked", "expected"),
    [
        ("earliest", 1, [1.0, -2, 5, 3]),
        ("latest", 1, [-1.0, 4, 5, 2]),
        ("earliest", 2, [0.5, 1, 5, 2]),
        ("latest", 2, [-0.5, 1, 5, 1.5]),
        ("latest", "all", [0, 1, 5, 2]),
    ],
)
def test_the_first_or_the_last_updates_by_round_leak(
    tmp_path, monkeypatch, selection, leaked, expected
):
    sent = [[(7, -1.0), (2, 1.0), (3, 0.0)], [(9, 4.0), (4, -2.0)], [(5, 5.0)]]
    sent += [[(30, 2.0), (4, 3.0), (8, 1.0)]]
    seen = []
    monkeypatch.setattr(
        "attacks.evaluate.roc_curve", lambda *a, **k: seen.append(a) or roc_curve(*a)
    )
    scores, path = by_hand(tmp_path, sent)
    config = replace(ONCE, leaked_updates=[leaked], selection=selection, draws=7)
    evaluate_attack(scores, path, CLASSES, config, seed=0)
    assert seen[0][1].tolist() == pytest.approx(expected)  # one draw, whatever `draws` says


def test_random_selection_needs_no_rounds_and_ignores_them(tmp_path):
    scores, path = study(tmp_path)
    config = replace(ONCE, leaked_updates=[3], draws=5)
    numbered = scores.assign(round=range(len(scores)))
    assert evaluate_attack(scores, path, CLASSES, config, 0) == evaluate_attack(
        numbered, path, CLASSES, config, 0
    )


def test_a_sum_ranks_clients_by_evidence_a_mean_by_strength(tmp_path):
    # the men sent two updates of 1, the women one of 1.5
    sent = [[(1, 1.5)], [(2, 1.5)], [(1, 1.0), (2, 1.0)], [(3, 1.0), (4, 1.0)]]
    scores, path = by_hand(tmp_path, sent)
    mean, total = (
        evaluate_attack(scores, path, CLASSES, replace(ONCE, combination=how), seed=0)[0]
        for how in ("mean", "sum")
    )
    assert (mean["auc"], total["auc"]) == (0, 1)
    # 1.5 and 2 share a bin: what is claimed too much of women offsets what of men too little
    assert total["ece"] == pytest.approx((2 * expit(1.5) - 2 * (1 - expit(2))) / 4)


def test_victims_of_one_class_give_no_figures(tmp_path):
    scores, path = study(tmp_path)
    truth = pd.read_parquet(path).assign(gender="male")
    truth.to_parquet(path)
    (entry,) = evaluate_attack(scores, path, CLASSES, ONCE, seed=0)
    assert entry["auc"] is None and entry["ci95_auc"] is None and entry["roc"] is None
    assert all(entry[key] is None for key in ("p_value", "advantage", "ece", "tpr_at_fpr_10"))
    assert entry["victims"] == 16


def test_a_fold_of_one_class_is_left_out(tmp_path):
    scores, path = study(tmp_path, folds=3)
    truth = pd.read_parquet(path)
    truth.loc[truth["fold"] == 0, "gender"] = "male"
    truth.to_parquet(path)
    (entry,) = evaluate_attack(scores, path, CLASSES, ONCE, seed=0)
    kept = truth["federation"][truth["fold"] > 0]
    only = scores[scores["federation"].isin(kept)]
    truth[truth["fold"] > 0].to_parquet(path)
    assert entry["auc"] == pytest.approx(expected_auc(only, path))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (
            "gender",
            "other",
            r"private speakers have the value\(s\) other, shadow speakers female and male",
        ),
        ("gender", None, r"have the value\(s\) missing"),
    ],
)
def test_values_that_shadow_speakers_lack_are_refused(tmp_path, column, value, message):
    scores, path = study(tmp_path)
    truth = pd.read_parquet(path)
    truth.loc[0, column] = value
    truth.to_parquet(path)
    with pytest.raises(UserError, match=message):
        evaluate_attack(scores, path, CLASSES, ONCE, seed=0)


def test_an_attribute_that_the_corpus_does_not_say_and_a_missing_file_are_refused(tmp_path):
    scores, path = study(tmp_path)
    with pytest.raises(UserError, match=r"adversary\.attribute=age: the private corpus does not"):
        evaluate_attack(scores, path, CLASSES, replace(ONCE, attribute="age"), seed=0)
    with pytest.raises(UserError, match=r"nothing\.parquet: not readable; run fedser stage=train"):
        evaluate_attack(scores, tmp_path / "nothing.parquet", CLASSES, ONCE, seed=0)
