"""The AUC over pairs of speakers: its bootstrap interval and its permutation test.

The clients and draws of one speaker are not independent. Folds share speakers, so they are not
independent either. Therefore speakers are resampled, and the labels of speakers are permuted, in
the same way in all folds. The wins of one speaker's draws over another's are counted once. After
that, each resample and each permutation is a product of matrices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy.sparse import csr_array

from fedser.common.arrays import Bools, Floats64, Ints

PERMUTATIONS = 5000
CHUNK = 500  # rows of weights to multiply at a time, to limit the memory


@dataclass(frozen=True)
class FoldSamples:
    """Attack scores in one fold: n draws over its clients.

    Attributes
    ----------
    log_odds : ndarray of float, shape (n, C)
        Log-odds of each class against all others.
    speaker : ndarray of int, shape (n,)
        Speaker of the draw, numbered over all folds.
    label : ndarray of int, shape (n,)
        The true class.
    """

    log_odds: Floats64
    speaker: Ints
    label: Ints


@dataclass(frozen=True)
class PairCounts:
    """Comparisons between S speakers in K folds, for each of R classes against the rest.

    Attributes
    ----------
    wins : ndarray of float, shape (R, K, S, S)
        Number of times that a draw of one speaker scores above a draw of another; ties count half.
    draws : ndarray of float, shape (K, S)
        Number of draws of each speaker; 0 if the fold lacks the speaker.
    label : ndarray of int, shape (S,)
        The true class.
    contrasts : list of int, length R
        The R classes, from `contrasts`.
    """

    wins: Floats64
    draws: Floats64
    label: Ints
    contrasts: list[int]


def contrasts(classes: int) -> list[int]:
    """Return the classes that figures are averaged over, each against the rest.

    For two classes this is only the second, because the first against the rest gives the same.
    """
    return [1] if classes == 2 else list(range(classes))


def count_pairs(folds: Sequence[FoldSamples]) -> PairCounts:
    """Count wins between all speakers of any labels."""
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
    """Return the number of wins of each speaker's draws over each other's, shape (S, S)."""
    order = score.argsort()
    ranked, draws = score[order], np.arange(len(score))
    lowest = np.zeros((len(score) + 1, size))  # row n: draws of each speaker among the n lowest
    lowest[draws + 1, who[order]] = 1
    lowest = lowest.cumsum(axis=0)
    below = lowest[np.searchsorted(ranked, ranked, side="left")]
    upto = lowest[np.searchsorted(ranked, ranked, side="right")]
    of_speaker = csr_array((np.ones(len(score)), (who[order], draws)), shape=(size, len(score)))
    return np.asarray(of_speaker @ (below + upto) / 2)


def in_folds(counts: PairCounts, folds: Bools) -> PairCounts:
    """Return the counts of the folds in a mask of shape (K,)."""
    return replace(counts, wins=counts.wins[:, folds], draws=counts.draws[folds])


def mean_auc(counts: PairCounts, label: Ints, weights: Floats64 | None = None) -> Floats64:
    """Return the AUC for each row of labels, averaged over classes, then over folds, shape (B,).

    Parameters
    ----------
    label : ndarray of int, shape (B, S) or (1, S)
        The speakers' classes.
    weights : ndarray of float, shape (B, S), optional
        Number of times that each speaker counts; once by default.

    Notes
    -----
    A fold leaves out a class if no speaker with weight has it, or if all have it. A fold without a
    class is left out. The AUC is NaN if no fold is left.

    Among n draws of one class there are n^2 / 2 wins. So the wins over the rest are the wins over
    all draws minus a known number, as in the rank sum of Mann and Whitney.
    """
    once = np.ones((1, 1)) if weights is None else weights
    of_class = []
    for which, wins in zip(counts.contrasts, counts.wins, strict=True):
        own, rest = (label == which) * once, (label != which) * once
        if weights is None:
            won = own @ wins.sum(axis=2).T
        else:
            won = np.einsum("bs,kst,bt->bk", own, wins, weights, optimize=True)
        own_draws, rest_draws = own @ counts.draws.T, rest @ counts.draws.T
        pairs = own_draws * rest_draws
        won = won - own_draws**2 / 2
        of_class.append(np.where(pairs > 0, won / np.where(pairs > 0, pairs, 1), np.nan))
    return mean_defined(mean_defined(np.array(of_class), axis=0), axis=1)


def mean_defined(values: Floats64, axis: int) -> Floats64:
    """Return the mean of the values that are not NaN; NaN if all are NaN."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=axis)
    total = np.where(defined, values, 0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def interval(counts: PairCounts, bootstraps: int, rng: np.random.Generator) -> list[float] | None:
    """Return the 95 % percentile interval of the AUC over resampled speakers."""
    weights = resample_speakers(counts.draws.sum(axis=0) > 0, bootstraps, rng)
    return percentiles(mean_auc(counts, counts.label[None], weights))


def resample_speakers(present: Bools, bootstraps: int, rng: np.random.Generator) -> Floats64:
    """Return how often each of S speakers is drawn in each of B resamples, shape (B, S).

    Parameters
    ----------
    present : ndarray of bool, shape (S,)
        The speakers to draw from; the others are never drawn.
    """
    speakers = np.flatnonzero(present)
    weights = np.zeros((bootstraps, len(present)))
    weights[:, speakers] = rng.multinomial(
        len(speakers), np.full(len(speakers), 1 / len(speakers)), bootstraps
    )
    return weights


def percentiles(resampled: Floats64) -> list[float] | None:
    """Return the 2.5 and 97.5 % quantiles of a resampled figure; None if all values are NaN."""
    defined = resampled[~np.isnan(resampled)]
    if not len(defined):
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return [float(low), float(high)]


def permutation_p_value(counts: PairCounts, rng: np.random.Generator) -> float:
    """Return the probability of an equal or higher mean AUC if labels are independent of scores.

    This is a one-sided permutation test over assignments of the labels to the speakers. The p-value
    is the share of assignments with an AUC at least as high. It is exact for two classes with at
    most 5,000 assignments. Otherwise it uses 5,000 random assignments and the true one (Phipson and
    Smyth, 2010).
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
    # Equal AUCs may differ in the last bit. Assignments without an AUC, because no fold has two
    # classes, count against the attack.
    reached = int((~(found < observed - 1e-9)).sum())
    return reached / len(found) if exact else (1 + reached) / (1 + len(found))
