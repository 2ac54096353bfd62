"""Re-identification: how well scores show that two sides of updates are from one speaker.

As for attributes, figures are computed within each test fold and averaged over folds, and intervals
resample speakers. The slope of the ROC curve changes only at scores of positive pairs. So it is
enough to count, at each of these scores, the lower scores of the negative pairs of each two
speakers. With these counts, a product of matrices gives the exact curve for any weights of the
speakers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedser.attacks.evaluation.attribute import (
    FIGURES,
    count_victims,
    reject_not_finite,
)
from fedser.attacks.evaluation.significance import (
    CHUNK,
    mean_defined,
    percentiles,
    resample_speakers,
)
from fedser.attacks.evaluation.truth import reject_unlisted, speakers_of
from fedser.common.arrays import Bools, Floats64, Ints
from fedser.common.seeds import numpy_stream


@dataclass(frozen=True)
class FoldPairs:
    """Counts of the pairs of one fold over S speakers.

    There are n levels: the distinct scores of positive pairs, ascending. There are P combinations
    of two speakers that have negative pairs.

    Attributes
    ----------
    positives : ndarray of float, shape (S, n)
        Number of positive pairs of each speaker at each level.
    first, second : ndarray of int, shape (P,)
        The two speakers of each combination.
    negatives : ndarray of float, shape (P,)
        Number of negative pairs of each combination.
    below : ndarray of float, shape (P, n)
        Number of its negative pairs that score below each level.
    tied : ndarray of int, shape (T,)
        The levels that negative pairs have, too.
    ties : ndarray of float, shape (P, T)
        Number of negative pairs at these levels.
    """

    positives: Floats64
    first: Ints
    second: Ints
    negatives: Floats64
    below: Floats64
    tied: Ints
    ties: Floats64


def evaluate_reidentification(
    pairs: pd.DataFrame, truth_path: Path, across: str, bootstraps: int, seed: int
) -> list[dict[str, Any]]:
    """Evaluate how well a speaker is recognised again, for every number of leaked updates.

    Parameters
    ----------
    pairs : DataFrame
        One row per scored pair of sides: ``federation``, ``leaked`` (updates per side, as text:
        ``"1"``, ``"all"``), ``draw``, ``client_a``, ``client_b`` and ``score``. A higher score
        means that one speaker is more likely.
    truth_path : Path
        ``truth.parquet`` of the run.
    across : str
        The kind of positive pairs. ``rounds``: two sides of one client, which share no update.
        ``shards``: sides of different clients of one speaker. Negative pairs are sides of
        different speakers. Other pairs are ignored.
    bootstraps : int
        Resamples of the speakers. The weight of a positive pair is the number of times that its
        speaker was drawn. The weight of a negative pair is the product for its two speakers.

    Returns
    -------
    list of dict
        For each number of leaked updates, in order of appearance, the figures of
        ``results.json``. Figures of attribute attacks are None. All figures are None if no fold
        has both positive and negative pairs.

    Raises
    ------
    UserError
        If the truth is missing, not readable, or lacks a client.
    ValueError
        If a score is NaN or infinite, or `across` is neither of the two.
    """
    reject_not_finite(pairs, ["score"])
    speakers = speakers_of(truth_path)
    entries = []
    for leaked, scored in pairs.groupby("leaked", sort=False):
        sides = _with_speakers(scored, speakers)
        reject_unlisted(truth_path, scored, sides)
        size = int(speakers["speaker"].max()) + 1
        both = [sides[["fold", f"speaker_{s}", f"client_{s}"]].to_numpy() for s in "ab"]
        clients = pd.DataFrame(np.concatenate(both), columns=["fold", "speaker", "client"])
        folds = [_count_scores(part, across, size) for _, part in sides.groupby("fold")]
        figures = _figures([f for f in folds if f], bootstraps, seed)
        entries.append({**count_victims(str(leaked), clients), **figures})
    return entries


def _with_speakers(pairs: pd.DataFrame, speakers: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs with ``fold``, ``speaker_a`` and ``speaker_b``."""
    joined = pairs
    for side in "ab":
        names = {"client": f"client_{side}", "speaker": f"speaker_{side}"}
        known = speakers.rename(columns=names)
        known = known if side == "a" else known.drop(columns="fold")
        joined = joined.merge(known, on=["federation", f"client_{side}"], validate="many_to_one")
    return joined


def _count_scores(pairs: pd.DataFrame, across: str, size: int) -> FoldPairs | None:
    """Count the pairs of one fold; return None if it has no positive or no negative pair."""
    if across not in ("rounds", "shards"):
        raise ValueError(f"across={across} is neither rounds nor shards")
    a, b = pairs["speaker_a"].to_numpy(), pairs["speaker_b"].to_numpy()
    same_client = (pairs["client_a"] == pairs["client_b"]).to_numpy()
    positive = same_client if across == "rounds" else (a == b) & ~same_client
    negative = a != b
    if not positive.any() or not negative.any():
        return None
    score = pairs["score"].to_numpy(np.float64)
    levels, place = np.unique(score[positive], return_inverse=True)
    # The order of the two speakers does not matter for the weight of a pair.
    two = np.minimum(a, b)[negative] * size + np.maximum(a, b)[negative]
    kinds, kind = np.unique(two, return_inverse=True)
    first = levels.searchsorted(score[negative], side="left")
    beyond = levels.searchsorted(score[negative], side="right")
    equal = first < beyond
    tied, column = np.unique(first[equal], return_inverse=True)
    # A negative pair is below all levels from `beyond` on. If `beyond` is n, it is below none.
    starts = _count(kind, beyond, (len(kinds), len(levels) + 1))
    return FoldPairs(
        positives=_count(a[positive], place, (size, len(levels))),
        first=kinds // size,
        second=kinds % size,
        negatives=starts.sum(axis=1),
        below=starts[:, :-1].cumsum(axis=1),
        tied=tied,
        ties=_count(kind[equal], column, (len(kinds), len(tied))),
    )


def _count(row: Ints, column: Ints, shape: tuple[int, int]) -> Floats64:
    """Return a table of `shape` with the number of times that each (row, column) occurs."""
    found = np.bincount(row * shape[1] + column, minlength=shape[0] * shape[1])
    return found.reshape(shape).astype(np.float64)


def _figures(folds: Sequence[FoldPairs], bootstraps: int, seed: int) -> dict[str, Any]:
    if not folds:
        return dict.fromkeys(FIGURES)
    once = np.ones((1, len(folds[0].positives)))
    auc, eer = _mean_figures(folds, once)
    present = np.any([_present(fold) for fold in folds], axis=0)
    weights = resample_speakers(present, bootstraps, numpy_stream(seed, "bootstrap"))
    chunks = [_mean_figures(folds, weights[s : s + CHUNK]) for s in range(0, bootstraps, CHUNK)]
    resampled = np.concatenate(chunks, axis=1)
    return dict.fromkeys(FIGURES) | {
        "auc": float(auc[0]),
        "ci95_auc": percentiles(resampled[0]),
        "eer": float(eer[0]),
        "ci95_eer": percentiles(resampled[1]),
    }


def _present(fold: FoldPairs) -> Bools:
    """Return which speakers the fold has, shape (S,)."""
    present = fold.positives.sum(axis=1) > 0
    present[fold.first] = present[fold.second] = True
    return np.asarray(present)


def _mean_figures(folds: Sequence[FoldPairs], weights: Floats64) -> Floats64:
    """Return AUC and EER, averaged over the folds where they are defined, shape (2, B)."""
    return mean_defined(np.array([auc_and_eer(fold, weights) for fold in folds]), axis=0)


def auc_and_eer(fold: FoldPairs, weights: Floats64) -> Floats64:
    """Return the area under the ROC curve and the equal error rate, shape (2, B).

    At the equal error rate the false-positive rate equals the false-negative rate (Martin et al.,
    The DET curve, 1997). The curve is interpolated linearly between its points.

    Parameters
    ----------
    weights : ndarray of float, shape (B, S)
        Number of times that each speaker counts.

    Notes
    -----
    The figures are NaN if all positive pairs or all negative pairs have weight 0.
    """
    positives = weights @ fold.positives
    pairs = weights[:, fold.first] * weights[:, fold.second]
    below = pairs @ fold.below
    upto = below.copy()
    upto[:, fold.tied] += pairs @ fold.ties
    missed = positives.cumsum(axis=1)
    all_positives, all_negatives = missed[:, -1], pairs @ fold.negatives
    with np.errstate(invalid="ignore"):  # 0 / 0 if a resample lacks positives or negatives
        # Counts are exact in floating point, so the AUC is never slightly above 1.
        auc = (positives * (below + upto)).sum(axis=1) / (2 * all_positives * all_negatives)
        # The points of the curve at thresholds just below and just above each level.
        false_negative = _alternate(missed - positives, missed) / all_positives[:, None]
        true_negative = _alternate(below, upto) / all_negatives[:, None]
    false_negative[:, -1] = true_negative[:, -1] = 1
    return np.array([auc, _crossing(false_negative, 1 - true_negative)])


def _alternate(before: Floats64, after: Floats64) -> Floats64:
    """Interleave the columns of two (B, n) arrays, between a first and a last column of zeros."""
    columns = np.zeros((len(before), 2 * before.shape[1] + 2))
    columns[:, 1:-1:2], columns[:, 2:-1:2] = before, after
    return columns


def _crossing(rising: Floats64, falling: Floats64) -> Floats64:
    """Return, for each row, the value at which two polylines cross.

    One rises from 0 to 1 and the other falls from 1 to 0. The value is NaN if one is not defined.
    """
    gap = rising - falling
    right = (gap >= 0).argmax(axis=1)
    rows, left = np.arange(len(gap)), right - 1
    share = -gap[rows, left] / (gap[rows, right] - gap[rows, left])
    return np.asarray(rising[rows, left] + share * (rising[rows, right] - rising[rows, left]))
