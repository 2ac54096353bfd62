"""How well an attack infers an attribute of the victims.

Figures are computed within each test fold and averaged over folds, because every fold is another
federation with another model. With more than two classes, a figure is first computed for each class
against the rest. The figure of a fold is the mean over the classes of its victims.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logsumexp

from fedser.attacks.evaluation.significance import (
    FoldSamples,
    contrasts,
    count_pairs,
    in_folds,
    interval,
    mean_auc,
    permutation_p_value,
)
from fedser.attacks.evaluation.truth import add_speakers_and_labels
from fedser.common.arrays import Floats64
from fedser.common.seeds import numpy_stream
from fedser.conf.schema import AdversaryConfig

FPR_GRID = np.linspace(0, 1, 101)
BINS = 10
FIGURES = (
    *("auc", "ci95_auc", "p_value", "uar_calibrated", "uar_fixed"),
    *("advantage", "tpr_at_fpr_01", "tpr_at_fpr_10", "ece", "roc", "eer", "ci95_eer"),
)


def evaluate_attack(
    scores: pd.DataFrame,
    truth_path: Path,
    classes: Sequence[str],
    config: AdversaryConfig,
    seed: int,
) -> list[dict[str, Any]]:
    """Evaluate one attack for every number of leaked updates.

    Parameters
    ----------
    scores : DataFrame
        One row per draw of a client's leaked updates: ``federation``, ``client``, ``leaked`` (the
        number as text: ``"1"``, ``"all"``), ``draw`` and ``score_0`` to ``score_{C-1}``, the
        log-probabilities of the C classes up to a constant.
    truth_path : Path
        ``truth.parquet`` of the run.
    classes : sequence of str
        The C values of the attribute, two or more.

    Returns
    -------
    list of dict
        For each number of leaked updates, in order of appearance, the figures of
        ``results.json``. ``eer`` and ``ci95_eer`` are None, because they belong to
        re-identification. All figures are None if no fold has victims of two classes.

    Raises
    ------
    UserError
        As in `add_speakers_and_labels`.
    ValueError
        If a score is NaN or infinite.
    """
    columns = [f"score_{c}" for c in range(len(classes))]
    reject_not_finite(scores, columns)
    joined = add_speakers_and_labels(scores, truth_path, config.attribute, classes)
    entries = []
    for leaked, drawn in joined.groupby("leaked", sort=False):
        folds = [_samples(part, columns) for _, part in drawn.groupby("fold")]
        figures = _figures(folds, config.bootstraps, seed)
        entries.append({**count_victims(str(leaked), drawn), **figures})
    return entries


def count_victims(leaked: str, clients: pd.DataFrame) -> dict[str, Any]:
    """Return the number of leaked updates, of victims (clients) and of their speakers.

    Parameters
    ----------
    clients : DataFrame
        ``fold``, ``speaker`` and ``client``, with one or more rows per client. A speaker has the
        same clients in every fold.
    """
    distinct = clients[["fold", "speaker", "client"]].drop_duplicates()
    of_speaker = distinct.groupby(["fold", "speaker"]).size().groupby("speaker").max()
    return {
        "leaked_updates": leaked if leaked == "all" else int(leaked),
        "victims": int(of_speaker.sum()),
        "speakers": len(of_speaker),
    }


def reject_not_finite(scores: pd.DataFrame, columns: Sequence[str]) -> None:
    """Reject scores that are not finite, because they give no figures.

    Raises
    ------
    ValueError
        If a score is NaN or infinite, with the name of its column.
    """
    for column in columns:
        count = int((~np.isfinite(scores[column].to_numpy(np.float64))).sum())
        if count:
            raise ValueError(f"{count} value(s) of {column} are NaN or infinite")


def _samples(drawn: pd.DataFrame, columns: Sequence[str]) -> FoldSamples:
    """Return the draws of one fold, with log-odds: log p - log(1 - p), p over all classes."""
    scores = drawn[list(columns)].to_numpy(np.float64)
    others = [np.delete(scores, c, axis=1) for c in range(len(columns))]
    log_odds = scores - np.column_stack([logsumexp(rest, axis=1) for rest in others])
    return FoldSamples(log_odds, drawn["speaker"].to_numpy(), drawn["label"].to_numpy())


def _figures(drawn: list[FoldSamples], bootstraps: int, seed: int) -> dict[str, Any]:
    mixed = np.array([len(np.unique(fold.label)) > 1 for fold in drawn])
    if not mixed.any():
        return dict.fromkeys(FIGURES)
    folds = [drawn[k] for k in np.flatnonzero(mixed)]
    curves = [_curves(fold) for fold in folds]
    tpr = _macro(curves, lambda fpr, tpr: _tpr_at(FPR_GRID, fpr, tpr))
    counts = count_pairs(drawn)
    mixed_counts = in_folds(counts, mixed)
    return dict.fromkeys(FIGURES) | {
        "auc": float(mean_auc(mixed_counts, mixed_counts.label[None])[0]),
        "ci95_auc": interval(mixed_counts, bootstraps, numpy_stream(seed, "bootstrap")),
        # The test uses all folds, because permuted labels may give two classes in other folds.
        "p_value": permutation_p_value(counts, numpy_stream(seed, "permutation")),
        # The adversary sees the victims' scores, but not their labels. The median is the best
        # threshold that it can know if all scores are shifted by an unknown constant.
        "uar_calibrated": float(np.mean([_uar(f, np.median(f.log_odds, axis=0)) for f in folds])),
        "uar_fixed": float(np.mean([_uar(f, 0.0) for f in folds])),
        # Yeom et al., Privacy Risk in Machine Learning (2018), here at the best threshold.
        "advantage": float(_macro(curves, lambda fpr, tpr: np.max(tpr - fpr))),
        "tpr_at_fpr_01": float(tpr[1]),
        "tpr_at_fpr_10": float(tpr[10]),
        "ece": float(np.mean([_calibration_error(f) for f in folds])),
        "roc": {"fpr": FPR_GRID.round(2).tolist(), "tpr": tpr.round(4).tolist()},
    }


def _curves(fold: FoldSamples) -> list[tuple[Floats64, Floats64]]:
    """Return the false- and true-positive rates of each class that the fold has."""
    from sklearn.metrics import roc_curve  # slow to import

    present = [c for c in contrasts(fold.log_odds.shape[1]) if (fold.label == c).any()]
    curves = [
        roc_curve(fold.label == c, fold.log_odds[:, c], drop_intermediate=False) for c in present
    ]
    return [(fpr, tpr) for fpr, tpr, _ in curves]


def _macro(
    curves: list[list[tuple[Floats64, Floats64]]], figure: Callable[[Floats64, Floats64], Any]
) -> Floats64:
    """Return a figure of each curve, averaged over classes and then over folds."""
    of_fold = [np.mean([figure(fpr, tpr) for fpr, tpr in fold], axis=0) for fold in curves]
    return np.asarray(np.mean(of_fold, axis=0))


def _uar(fold: FoldSamples, shift: Floats64 | float) -> float:
    """Return the unweighted average recall over the fold's classes, after `shift` is subtracted."""
    predicted = (fold.log_odds - shift).argmax(axis=1)
    return float(np.mean([(predicted[fold.label == c] == c).mean() for c in np.unique(fold.label)]))


def _tpr_at(grid: Floats64, fpr: Floats64, tpr: Floats64) -> Floats64:
    """Return the highest true-positive rate at or below each false-positive rate of `grid`."""
    # Rates are ratios of counts. The tolerance keeps 1/100 at or below 0.01.
    return np.asarray(tpr[np.searchsorted(fpr, grid + 1e-9, side="right") - 1])


def _calibration_error(fold: FoldSamples) -> float:
    """Return the expected calibration error over bins of equal width.

    With more than two classes this is the mean over all classes, also over classes without victims
    (Kull et al., Beyond temperature scaling, 2019). The weight of a bin is its share of the n
    draws, so |sum of excess| / n is the weighted error of a bin.
    """
    errors = []
    for c in contrasts(fold.log_odds.shape[1]):
        probability = expit(fold.log_odds[:, c])
        bins = np.minimum((BINS * probability).astype(int), BINS - 1)
        excess = np.bincount(bins, weights=probability - (fold.label == c), minlength=BINS)
        errors.append(np.abs(excess).sum() / len(bins))
    return float(np.mean(errors))
