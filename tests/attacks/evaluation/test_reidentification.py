"""Figures of re-identification, against scikit-learn and slow loops."""

import jsonschema
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from fedser.attacks.evaluation.attribute import FIGURES
from fedser.attacks.evaluation.reidentification import evaluate_reidentification
from fedser.attacks.evaluation.significance import resample_speakers
from fedser.common.errors import UserError
from fedser.common.seeds import numpy_stream
from fedser.results.files import SCHEMA
from tests.attacks.evaluation.test_attribute import as_recorded, write_truth

ACROSS = ["rounds", "shards"]


def study(folder, speakers=6, shards=2, folds=2, draws=2, shift=1.0, digits=9, seed=0):
    """Return pair scores and truth; each fold lacks one speaker, and pairs have both orders."""
    rng = np.random.default_rng(seed)
    truth, rows = [], []
    for fold in range(folds):
        federation = f"private-fold{fold}"
        there = [s for s in range(speakers) if s != fold or folds == 1]
        speaker_of = np.repeat(there, shards)
        truth += [(federation, fold, c, f"s{s}", "female") for c, s in enumerate(speaker_of)]
        for draw, a, b in np.ndindex(draws, len(speaker_of), len(speaker_of)):
            score = shift * (speaker_of[a] == speaker_of[b]) + rng.normal()
            rows.append((federation, "5", draw, a, b, round(score, digits)))
    columns = ["federation", "leaked", "draw", "client_a", "client_b", "score"]
    return pd.DataFrame(rows, columns=columns), write_truth(folder, truth)


def counted_pairs(pairs, path, across):
    """Return label, score and both speakers of the pairs that count, by fold."""
    truth = pd.read_parquet(path)
    speaker_of = truth.set_index(["federation", "client"])["speaker"].to_dict()
    folds = []
    for federation, part in pairs.groupby("federation"):
        kept = []
        for a, b, score in zip(part["client_a"], part["client_b"], part["score"], strict=True):
            one, two = speaker_of[federation, a], speaker_of[federation, b]
            if one != two:
                kept.append((0, score, one, two))
            elif (a == b) == (across == "rounds"):
                kept.append((1, score, one, two))
        folds.append(pd.DataFrame(kept, columns=["label", "score", "one", "two"]))
    return folds


def slow_eer(label, score, weight=None):
    curve = roc_curve(label, score, sample_weight=weight, drop_intermediate=False)
    false_positive, true_positive, _ = curve
    # False-positive rate minus miss rate rises along the curve: find its zero.
    return np.interp(0, false_positive + true_positive - 1, false_positive)


def slow_figures(folds, multiplicity=None):
    """Return mean AUC and EER over folds by scikit-learn, with weights of the speakers."""
    found = []
    for g in folds:
        weight = np.ones(len(g))
        if multiplicity is not None:
            one, two = g["one"].map(multiplicity), g["two"].map(multiplicity)
            weight = np.where(g["label"] == 1, one, one * two)
        kept = weight > 0
        label, score, weight = g["label"][kept], g["score"][kept], weight[kept]
        if label.nunique() == 2:
            auc = roc_auc_score(label, score, sample_weight=weight)
            found.append((auc, slow_eer(label, score, weight)))
    return np.mean(found, axis=0) if found else np.array([np.nan, np.nan])


@pytest.mark.parametrize("across", ACROSS)
@pytest.mark.parametrize("digits", [9, 1, 0])  # few digits make ties
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_figures_are_the_means_over_folds(tmp_path, across, digits, shift):
    pairs, path = study(tmp_path, digits=digits, shift=shift)
    (entry,) = evaluate_reidentification(pairs, path, across, 10, seed=0)
    auc, eer = slow_figures(counted_pairs(pairs, path, across))
    assert (entry["auc"], entry["eer"]) == pytest.approx((auc, eer))
    assert entry["leaked_updates"] == 5
    assert (entry["victims"], entry["speakers"]) == (12, 6)


@pytest.mark.parametrize("seed", range(5))
def test_eer_is_between_the_nearest_thresholds(tmp_path, seed):
    pairs, path = study(tmp_path, folds=1, draws=1, seed=seed)
    (entry,) = evaluate_reidentification(pairs, path, "rounds", 10, seed=0)
    (g,) = counted_pairs(pairs, path, "rounds")
    positive, negative = g["score"][g["label"] == 1], g["score"][g["label"] == 0]
    thresholds = np.append(np.sort(g["score"]), np.inf)
    rates = [((negative >= t).mean(), (positive < t).mean()) for t in thresholds]
    lower, upper = max(map(min, rates)), min(map(max, rates))
    assert lower - 1e-9 <= entry["eer"] <= upper + 1e-9
    assert upper - lower <= 1 / len(positive)


def test_normal_scores_have_the_figures_of_two_normals(tmp_path):
    pairs, path = study(tmp_path, speakers=20, shards=3, folds=1, draws=4, shift=2.0)
    (entry,) = evaluate_reidentification(pairs, path, "shards", 10, seed=0)
    # 480 positives; equal variances at distance d: AUC = Phi(d / sqrt 2), EER = Phi(-d / 2)
    assert entry["auc"] == pytest.approx(norm.cdf(2 / np.sqrt(2)), abs=0.03)
    assert entry["eer"] == pytest.approx(norm.cdf(-1), abs=0.05)


@pytest.mark.parametrize("across", ACROSS)
@pytest.mark.parametrize("digits", [9, 0])
def test_the_interval_agrees_with_a_slow_loop(tmp_path, across, digits):
    pairs, path = study(
        tmp_path, speakers=4, digits=digits
    )  # so few that some resamples hold one speaker
    (entry,) = evaluate_reidentification(pairs, path, across, 60, seed=3)
    folds = counted_pairs(pairs, path, across)
    names = pd.read_parquet(path)["speaker"].unique()
    weights = resample_speakers(np.ones(4, bool), 60, numpy_stream(3, "bootstrap"))
    found = [slow_figures(folds, dict(zip(names, weight, strict=True))) for weight in weights]
    assert np.isnan(found).any()
    low, high = np.nanquantile(found, [0.025, 0.975], axis=0)
    assert entry["ci95_auc"] == pytest.approx([low[0], high[0]])
    assert entry["ci95_eer"] == pytest.approx([low[1], high[1]])


def test_chunks_of_resamples_change_nothing(tmp_path, monkeypatch):
    pairs, path = study(tmp_path)
    whole = evaluate_reidentification(pairs, path, "rounds", 50, seed=0)
    monkeypatch.setattr("fedser.attacks.evaluation.reidentification.CHUNK", 7)
    assert evaluate_reidentification(pairs, path, "rounds", 50, seed=0) == whole


@pytest.mark.parametrize(
    ("shift", "auc", "eer"), [(1e6, 1.0, 0.0), (-1e6, 0.0, 1.0)], ids=["perfect", "reversed"]
)
def test_perfect_and_reversed_scores(tmp_path, shift, auc, eer):
    pairs, path = study(tmp_path, shift=shift)
    (entry,) = evaluate_reidentification(pairs, path, "rounds", 50, seed=0)
    assert (entry["auc"], entry["eer"]) == (auc, eer)
    assert (entry["ci95_auc"], entry["ci95_eer"]) == ([auc, auc], [eer, eer])


def test_equal_scores_give_chance_level(tmp_path):
    pairs, path = study(tmp_path)
    (entry,) = evaluate_reidentification(pairs.assign(score=1.0), path, "shards", 50, seed=0)
    assert (entry["auc"], entry["eer"]) == (0.5, 0.5)
    assert (entry["ci95_auc"], entry["ci95_eer"]) == ([0.5, 0.5], [0.5, 0.5])


@pytest.mark.parametrize("across", ACROSS)
def test_pairs_that_are_neither_are_ignored(tmp_path, across):
    pairs, path = study(tmp_path)
    same = pairs["client_a"] == pairs["client_b"]
    shard = ~same & (pairs["client_a"] // 2 == pairs["client_b"] // 2)
    other = shard if across == "rounds" else same
    (plain,) = evaluate_reidentification(pairs, path, across, 20, seed=0)
    (moved,) = evaluate_reidentification(
        pairs.assign(score=pairs["score"] + 1e6 * other), path, across, 20, seed=0
    )
    assert moved == plain
    (without,) = evaluate_reidentification(pairs[~other], path, across, 20, seed=0)
    assert without == plain


def test_a_fold_without_positives_is_left_out(tmp_path):
    pairs, path = study(tmp_path, folds=3)
    same = pairs["client_a"] == pairs["client_b"]
    lacking = pairs[~(same & (pairs["federation"] == "private-fold0"))]
    (entry,) = evaluate_reidentification(lacking, path, "rounds", 20, seed=0)
    auc, eer = slow_figures(counted_pairs(pairs, path, "rounds")[1:])
    assert (entry["auc"], entry["eer"]) == pytest.approx((auc, eer))


@pytest.mark.parametrize("lacking", ["positives", "negatives"])
def test_without_positives_or_negatives_figures_are_none(tmp_path, lacking):
    pairs, path = study(tmp_path, shards=1)
    if lacking == "positives":  # no speaker has a second client
        (entry,) = evaluate_reidentification(pairs, path, "shards", 20, seed=0)
    else:
        same = pairs[pairs["client_a"] == pairs["client_b"]]
        (entry,) = evaluate_reidentification(same, path, "rounds", 20, seed=0)
    assert {entry[key] for key in FIGURES} == {None}
    assert (entry["victims"], entry["speakers"]) == (6, 6)


def test_entries_follow_the_schema(tmp_path):
    pairs, path = study(tmp_path)
    every = pairs.assign(leaked="all", score=-pairs["score"])
    five, all_sent = evaluate_reidentification(
        pd.concat([pairs, every]), path, "rounds", 20, seed=0
    )
    assert (five["leaked_updates"], all_sent["leaked_updates"]) == (5, "all")
    assert all_sent["auc"] == pytest.approx(1 - five["auc"])
    others = as_recorded(attribute="speaker", classes=[], across="rounds")
    attack = {"$defs": SCHEMA["$defs"], "$ref": "#/$defs/attack"}
    jsonschema.validate(five | others, attack)
    assert not set(five) & set(others)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(five | others | {"uar_fixed": 0.5}, attack)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": np.nan}, r"144 value\(s\) of score are NaN or infinite"),
        ({"client_a": 99}, "clients of the transcript are missing"),
        ({"client_b": -1}, "clients of the transcript are missing"),
    ],
)
def test_wrong_arguments_are_rejected(tmp_path, change, message):
    pairs, path = study(tmp_path, folds=1, draws=1)
    with pytest.raises((ValueError, UserError), match=message):
        evaluate_reidentification(pairs.assign(**change), path, "rounds", 10, seed=0)
    with pytest.raises(ValueError, match="across=time is neither rounds nor shards"):
        evaluate_reidentification(pairs, path, "time", 10, seed=0)


def test_a_missing_truth_is_rejected(tmp_path):
    pairs, _ = study(tmp_path)
    with pytest.raises(UserError, match=r"nothing\.parquet: not readable; run fedser stage=train"):
        evaluate_reidentification(pairs, tmp_path / "nothing.parquet", "rounds", 10, seed=0)
