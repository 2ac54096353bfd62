"""The AUC over pairs of speakers: its bootstrap interval and its permutation test.

A speaker's clients and draws are not independent, and neither are the folds, which share
speakers. So speakers are what is resampled and whose labels are permuted, alike in all folds.
How often one speaker's draws outscore another's is counted once; after that a resample or a
permutation is a product of matrices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Floats64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PERMUTATIONS = 5000
CHUNK = 500  # rows of weights that are multiplied at a time, to bound memory


@dataclass(frozen=True)
class FoldSamples:
    """Attack scores in one fold: n draws over its clients.

    Attributes
    ----------
    score : ndarray of float, shape (n,)
        Log-odds that the attribute is the second class.
    speaker : ndarray of int, shape (n,)
        Whose the draw is, numbered over all folds.
    label : ndarray of int, shape (n,)
        The truth.
    """

    score: Floats64
    speaker: Ints
    label: Ints


@dataclass(frozen=True)
class PairCounts:
    """Who outscores whom among S speakers in K folds.

    Attributes
    ----------
    wins : ndarray of float, shape (K, S, S)
        How often a draw of the one speaker scores above a draw of the other; ties count half.
    draws : ndarray of float, shape (K, S)
        Draws of each speaker, 0 where a fold lacks the speaker.
    label : ndarray of int, shape (S,)
        The truth.
    """

    wins: Floats64
    draws: Floats64
    label: Ints


def count_pairs(folds: Sequence[FoldSamples]) -> PairCounts:
    """Count wins between all speakers, whatever their labels."""
    speakers = np.unique(np.concatenate([fold.speaker for fold in folds]))
    size = len(speakers)
    label = np.zeros(size, dtype=np.int64)
    wins, draws = np.zeros((len(folds), size, size)), np.zeros((len(folds), size))
    for k, fold in enumerate(folds):
        who = np.searchsorted(speakers, fold.speaker)
        label[who] = fold.label
        draws[k] = np.bincount(who, minlength=size)
        for p in np.unique(who):
            own = np.sort(fold.score[who == p])
            below = np.searchsorted(own, fold.score, side="left")
            upto = np.searchsorted(own, fold.score, side="right")
            wins[k, p] = np.bincount(who, weights=len(own) - (below + upto) / 2, minlength=size)
    return PairCounts(wins, draws, label)


def in_folds(counts: PairCounts, folds: Bools) -> PairCounts:
    """Return the counts of some of the folds, given as a mask of shape (K,)."""
    return replace(counts, wins=counts.wins[folds], draws=counts.draws[folds])


def mean_auc(counts: PairCounts, positive: Bools, weights: Floats64 | None = None) -> Floats64:
    """Return the AUC averaged over folds, shape (B,), for each row of labels.

    Parameters
    ----------
    positive : ndarray of bool, shape (B, S) or (1, S)
        Which speakers count as the second class.
    weights : ndarray of float, shape (B, S), optional
        How often each speaker counts; once by default.

    Notes
    -----
    A fold in which no speaker of one class has weight is left out; NaN where none is left.
    """
    once = np.ones((1, 1)) if weights is None else weights
    second, first = positive * once, ~positive * once
    won = np.einsum("bs,kst,bt->bk", second, counts.wins, first, optimize=True)
    met = (second @ counts.draws.T) * (first @ counts.draws.T)
    defined = met > 0
    auc = np.where(defined, won / np.where(defined, met, 1), 0).sum(axis=1)
    count = defined.sum(axis=1)
    return np.where(count > 0, auc / np.maximum(count, 1), np.nan)


def interval(counts: PairCounts, bootstraps: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return the 95 % percentile interval of the AUC over resampled speakers."""
    speakers = np.flatnonzero(counts.draws.sum(axis=0))
    drawn = rng.multinomial(len(speakers), np.full(len(speakers), 1 / len(speakers)), bootstraps)
    weights = np.zeros((bootstraps, len(counts.label)))
    weights[:, speakers] = drawn
    resampled = mean_auc(counts, counts.label[None] == 1, weights)
    resampled = resampled[~np.isnan(resampled)]
    if not len(resampled):
        return float("nan"), float("nan")
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def p_value(counts: PairCounts, rng: np.random.Generator) -> float:
    """Return how probable so high a mean AUC is if labels have nothing to do with scores.

    One-sided permutation test: the share, among all ways to give as many speakers the second
    class, of those with an AUC at least as high. Exact where there are no more than 5,000;
    else over 5,000 random ones and the truth (Phipson and Smyth, 2010).
    """
    size, second = len(counts.label), int(counts.label.sum())
    exact = math.comb(size, second) <= PERMUTATIONS
    if exact:
        chosen = np.array(list(combinations(range(size), second)))
        positive = np.zeros((len(chosen), size), dtype=bool)
        np.put_along_axis(positive, chosen, True, axis=1)
    else:
        positive = rng.permuted(np.tile(counts.label == 1, (PERMUTATIONS, 1)), axis=1)
    (observed,) = mean_auc(counts, counts.label[None] == 1)
    starts = range(0, len(positive), CHUNK)
    found = np.concatenate([mean_auc(counts, positive[s : s + CHUNK]) for s in starts])
    # Equal AUCs may differ in the last bit. Labels without an AUC (in no fold are there both
    # classes) count against the attack.
    reached = int((~(found < observed - 1e-9)).sum())
    return reached / len(found) if exact else (1 + reached) / (1 + len(found))
