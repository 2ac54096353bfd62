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
from scipy.sparse import csr_array

from fedser.common.arrays import Bools, Ints

Floats64 = npt.NDArray[np.float64]

PERMUTATIONS = 5000
CHUNK = 500  # rows of weights that are multiplied at a time, to bound memory


@dataclass(frozen=True)
class FoldSamples:
    """Attack scores in one fold: n draws over its clients.

    Attributes
    ----------
    log_odds : ndarray of float, shape (n, C)
        Log-odds of each class against all others.
    speaker : ndarray of int, shape (n,)
        Whose the draw is, numbered over all folds.
    label : ndarray of int, shape (n,)
        The true class.
    """

    log_odds: Floats64
    speaker: Ints
    label: Ints


@dataclass(frozen=True)
class PairCounts:
    """Who outscores whom among S speakers in K folds, for each of R classes against the rest.

    Attributes
    ----------
    wins : ndarray of float, shape (R, K, S, S)
        How often a draw of the one speaker scores above a draw of the other; ties count half.
    draws : ndarray of float, shape (K, S)
        Draws of each speaker, 0 where a fold lacks the speaker.
    label : ndarray of int, shape (S,)
        The true class.
    contrasts : list of int, length R
        The classes, as of `contrasts`.
    """

    wins: Floats64
    draws: Floats64
    label: Ints
    contrasts: list[int]


def contrasts(classes: int) -> list[int]:
    """Return the classes that figures are averaged over, each against the rest.

    Of two classes only the second: the first against the rest is the same question.
    """
    return [1] if classes == 2 else list(range(classes))


def count_pairs(folds: Sequence[FoldSamples]) -> PairCounts:
    """Count wins between all speakers, whatever their labels."""
    speakers = np.unique(np.concatenate([fold.speaker for fold in folds]))
    size, against = len(speakers), contrasts(folds[0].log_odds.shape[1])
    label = np.zeros(size, dtype=np.int64)
    wins, draws = np.zeros((len(against), len(folds), size, size)), np.zeros((len(folds), size))
    for k, fold in enumerate(folds):
        who = np.searchsorted(speakers, fold.speaker)
        label[who] = fold.label
        draws[k] = np.bincount(who, minlength=size)
        for r, which in enumerate(against):
            wins[r, k] = _wins(fold.log_odds[:, which], who, size)
    return PairCounts(wins, draws, label, against)


def _wins(score: Floats64, who: Ints, size: int) -> Floats64:
    """Return how often a draw of the one speaker outscores one of the other, shape (S, S)."""
    order = score.argsort()
    ranked, draws = score[order], np.arange(len(score))
    lowest = np.zeros((len(score) + 1, size))  # draws of each speaker among so many lowest
    lowest[draws + 1, who[order]] = 1
    lowest = lowest.cumsum(axis=0)
    below = lowest[np.searchsorted(ranked, ranked, side="left")]
    upto = lowest[np.searchsorted(ranked, ranked, side="right")]
    whose = csr_array((np.ones(len(score)), (who[order], draws)), shape=(size, len(score)))
    return np.asarray(whose @ (below + upto) / 2)


def in_folds(counts: PairCounts, folds: Bools) -> PairCounts:
    """Return the counts of some of the folds, given as a mask of shape (K,)."""
    return replace(counts, wins=counts.wins[:, folds], draws=counts.draws[folds])


def mean_auc(counts: PairCounts, label: Ints, weights: Floats64 | None = None) -> Floats64:
    """Return the AUC averaged over classes, then over folds, shape (B,), for rows of labels.

    Parameters
    ----------
    label : ndarray of int, shape (B, S) or (1, S)
        The speakers' classes.
    weights : ndarray of float, shape (B, S), optional
        How often each speaker counts; once by default.

    Notes
    -----
    A class that has no speaker with weight in a fold, or all of them, is left out there; so is
    a fold without a class. NaN where no fold is left.

    Among n draws of a class there are n^2 / 2 wins, so that its wins over the rest are those
    over everyone less a known number, as in Mann and Whitney's rank sum.
    """
    once = np.ones((1, 1)) if weights is None else weights
    of_class = []
    for which, wins in zip(counts.contrasts, counts.wins, strict=True):
        own, rest = (label == which) * once, (label != which) * once
        if weights is None:
            won = own @ wins.sum(axis=2).T
        else:
            won = np.einsum("bs,kst,bt->bk", own, wins, weights, optimize=True)
        many, others = own @ counts.draws.T, rest @ counts.draws.T
        met = many * others
        won = won - many**2 / 2
        of_class.append(np.where(met > 0, won / np.where(met > 0, met, 1), np.nan))
    return mean_defined(mean_defined(np.array(of_class), axis=0), axis=1)


def mean_defined(values: Floats64, axis: int) -> Floats64:
    """Return the mean of the values that are not NaN; NaN where all are."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=axis)
    total = np.where(defined, values, 0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def interval(counts: PairCounts, bootstraps: int, rng: np.random.Generator) -> list[float] | None:
    """Return the 95 % percentile interval of the AUC over resampled speakers."""
    weights = resample_speakers(counts.draws.sum(axis=0) > 0, bootstraps, rng)
    return percentiles(mean_auc(counts, counts.label[None], weights))


def resample_speakers(present: Bools, bootstraps: int, rng: np.random.Generator) -> Floats64:
    """Return how often each speaker is drawn in each resample of those present, shape (B, S).

    Parameters
    ----------
    present : ndarray of bool, shape (S,)
        Which speakers there are; the others are never drawn.
    """
    speakers = np.flatnonzero(present)
    weights = np.zeros((bootstraps, len(present)))
    weights[:, speakers] = rng.multinomial(
        len(speakers), np.full(len(speakers), 1 / len(speakers)), bootstraps
    )
    return weights


def percentiles(resampled: Floats64) -> list[float] | None:
    """Return the 2.5 and 97.5 % quantiles of a figure's resamples; None where all are NaN."""
    defined = resampled[~np.isnan(resampled)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return [float(low), float(high)]


def p_value(counts: PairCounts, rng: np.random.Generator) -> float:
    """Return how probable so high a mean AUC is if labels have nothing to do with scores.

    One-sided permutation test: the share, among all ways to give as many speakers each class,
    of those with an AUC at least as high. Exact for two classes where there are no more than
    5,000 ways; else over 5,000 random ones and the truth (Phipson and Smyth, 2010).
    """
    size, second = len(counts.label), int((counts.label == 1).sum())
    exact = len(counts.contrasts) == 1 and math.comb(size, second) <= PERMUTATIONS
    if exact:
        chosen = np.array(list(combinations(range(size), second)))
        label = np.zeros((len(chosen), size), dtype=np.int64)
        np.put_along_axis(label, chosen, 1, axis=1)
    else:
        label = rng.permuted(np.tile(counts.label, (PERMUTATIONS, 1)), axis=1)
    (observed,) = mean_auc(counts, counts.label[None])
    starts = range(0, len(label), CHUNK)
    found = np.concatenate([mean_auc(counts, label[s : s + CHUNK]) for s in starts])
    # Equal AUCs may differ in the last bit. Labels without an AUC (in no fold are there two
    # classes) count against the attack.
    reached = int((~(found < observed - 1e-9)).sum())
    return reached / len(found) if exact else (1 + reached) / (1 + len(found))
