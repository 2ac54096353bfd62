"""Re-identification: how well scores tell whether two sides of updates are one speaker's.

As for attributes, figures are computed within each test fold and averaged over folds, and
intervals resample speakers. The ROC curve turns only at scores of positive pairs, so counting
there how many negatives of each two speakers score lower gives its exact shape for any
weights of the speakers, as a product of matrices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fedser.attacks.evaluation.attribute import (
    FIGURES,
    refuse_not_finite,
    refuse_unlisted,
    speakers_of,
    who_leaked,
)
from fedser.attacks.evaluation.significance import (
    CHUNK,
    mean_defined,
    percentiles,
    resample_speakers,
)
from fedser.common.arrays import Bools, Ints
from fedser.common.seeds import numpy_stream

Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FoldPairs:
    """Scores of one fold over S speakers, at the n distinct scores of positives, ascending.

    Attributes
    ----------
    positives : ndarray of float, shape (S, n)
        How many positive pairs of each speaker have that score.
    first, second : ndarray of int, shape (P,)
        The speakers of each two that negative pairs are of.
    negatives : ndarray of float, shape (P,)
        How many negative pairs are of these two.
    below : ndarray of float, shape (P, n)
        How many of them score lower.
    tied : ndarray of int, shape (T,)
        Which of the n scores negative pairs have, too.
    ties : ndarray of float, shape (P, T)
        How many negative pairs have them.
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
        A row a scored pair of sides: ``federation``, ``leaked`` (updates a side, as text:
        ``"1"``, ``"all"``), ``draw``, ``client_a``, ``client_b`` and ``score``, the higher the
        more likely of one speaker.
    truth_path : Path
        ``truth.parquet`` of the run.
    across : str
        What positives are: two sides of one client (``rounds``: the sides share no update) or
        of different clients of one speaker (``shards``). Negatives are sides of different
        speakers; other pairs are ignored.
    bootstraps : int
        Resamples of the speakers. In a resample a negative pair weighs the product of its two
        speakers' multiplicities, a positive pair its speaker's.

    Returns
    -------
    list of dict
        For each number of leaked updates, in order of appearance, the figures of
        ``results.json``. Those of attribute attacks are None; all are where no fold has both
        positive and negative pairs.

    Raises
    ------
    UserError
        If the truth is not there, or lacks a client.
    ValueError
        If a score is NaN or infinite, or `across` is neither of the two.
    """
    refuse_not_finite(pairs, ["score"])
    speakers = speakers_of(truth_path)
    entries = []
    for leaked, scored in pairs.groupby("leaked", sort=False):
        sides = _with_speakers(scored, speakers)
        refuse_unlisted(truth_path, scored, sides)
        size = int(speakers["speaker"].max()) + 1
        both = [sides[["fold", f"speaker_{s}", f"client_{s}"]].to_numpy() for s in "ab"]
        clients = pd.DataFrame(np.concatenate(both), columns=["fold", "speaker", "client"])
        folds = [_count_scores(part, across, size) for _, part in sides.groupby("fold")]
        figures = _figures([f for f in folds if f], bootstraps, seed)
        entries.append({**who_leaked(str(leaked), clients), **figures})
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
    """Count the scores of one fold; None without a positive or without a negative pair."""
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
    # Whichever side a speaker is on, the weight is the same.
    two = np.minimum(a, b)[negative] * size + np.maximum(a, b)[negative]
    kinds, kind = np.unique(two, return_inverse=True)
    first = levels.searchsorted(score[negative], side="left")
    beyond = levels.searchsorted(score[negative], side="right")
    equal = first < beyond
    tied, column = np.unique(first[equal], return_inverse=True)
    # A negative pair is below all levels from `beyond` on: below none where that is the end.
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
    """Return how often each row and column come together."""
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
    there = fold.positives.sum(axis=1) > 0
    there[fold.first] = there[fold.second] = True
    return np.asarray(there)


def _mean_figures(folds: Sequence[FoldPairs], weights: Floats64) -> Floats64:
    """Return AUC and EER averaged over the folds that have them, shape (2, B)."""
    return mean_defined(np.array([auc_and_eer(fold, weights) for fold in folds]), axis=0)


def auc_and_eer(fold: FoldPairs, weights: Floats64) -> Floats64:
    """Return the area under the ROC curve and the equal error rate, shape (2, B).

    The equal error rate is where the curve, straight between its points, has a false-positive
    rate equal to its false-negative rate (Martin et al., The DET curve, 1997).

    Parameters
    ----------
    weights : ndarray of float, shape (B, S)
        How often each speaker counts.

    Notes
    -----
    NaN where all positives or all negatives have no weight.
    """
    positives = weights @ fold.positives
    pairs = weights[:, fold.first] * weights[:, fold.second]
    below = pairs @ fold.below
    upto = below.copy()
    upto[:, fold.tied] += pairs @ fold.ties
    missed = positives.cumsum(axis=1)
    many, others = missed[:, -1], pairs @ fold.negatives
    with np.errstate(invalid="ignore"):  # 0 / 0 where a resample lacks positives or negatives
        # Counts are exact in floating point, so that an AUC of 1 is not a hair above it.
        auc = (positives * (below + upto)).sum(axis=1) / (2 * many * others)
        # Points where the threshold passes a positive score: just below it, and just above.
        false_negative = _alternate(missed - positives, missed) / many[:, None]
        true_negative = _alternate(below, upto) / others[:, None]
    false_negative[:, -1] = true_negative[:, -1] = 1
    return np.array([auc, _crossing(false_negative, 1 - true_negative)])


def _alternate(before: Floats64, after: Floats64) -> Floats64:
    """Return the columns of two (B, n) arrays in turn, after and before a column of zeros."""
    columns = np.zeros((len(before), 2 * before.shape[1] + 2))
    columns[:, 1:-1:2], columns[:, 2:-1:2] = before, after
    return columns


def _crossing(rising: Floats64, falling: Floats64) -> Floats64:
    """Return, for each row, the value at which one polyline meets the other.

    The one rises from 0 to 1, the other falls from 1 to 0. NaN where either is not defined.
    """
    gap = rising - falling
    right = (gap >= 0).argmax(axis=1)
    rows, left = np.arange(len(gap)), right - 1
    share = -gap[rows, left] / (gap[rows, right] - gap[rows, left])
    return np.asarray(rising[rows, left] + share * (rising[rows, right] - rising[rows, left]))
