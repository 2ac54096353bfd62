"""Privacy auditing with one training run (Steinke, Nasr and Jagielski, NeurIPS 2023)."""

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import binom

from fedser.server.rounds.audit_batches import OneRun

LARGEST = 50.0
"""Largest epsilon that a bound can reach."""


def one_run_bound(found: OneRun, delta: float, confidence: float) -> float:
    """Return a lower bound on epsilon from guesses of which canaries were in the data.

    The canaries with the highest scores are guessed to be in, and the same number with the lowest
    scores to be out. There is no guess for the others. The share to guess is chosen on every second
    canary, and the bound is computed on the rest.
    """
    order = np.arange(len(found.scores))
    shares = [0.1, 0.2, 0.3, 0.5]
    bounds = [_bound(found, order % 2 == 0, share, delta, confidence) for share in shares]
    return _bound(found, order % 2 == 1, shares[int(np.argmax(bounds))], delta, confidence)


def _bound(
    found: OneRun, among: npt.NDArray[np.bool_], share: float, delta: float, confidence: float
) -> float:
    scores, included = found.scores[among], found.included[among]
    order, side = np.argsort(scores), int(share * len(scores))
    if side == 0:
        return 0.0
    right = int(included[order[-side:]].sum() + (~included[order[:side]]).sum())
    return epsilon_bound(len(scores), 2 * side, right, delta, confidence)


def epsilon_bound(
    canaries: int, guesses: int, right: int, delta: float, confidence: float
) -> float:
    """Return the largest epsilon that the number of right guesses excludes.

    Parameters
    ----------
    canaries, guesses, right : int
        Number of canaries, each included by a fair coin, of guesses, and of right guesses.
    """

    def excess(epsilon: float) -> float:
        return guesses_p_value(canaries, guesses, right, epsilon, delta) - (1 - confidence)

    if excess(0.0) > 0:
        return 0.0
    return LARGEST if excess(LARGEST) <= 0 else float(brentq(excess, 0.0, LARGEST, xtol=1e-6))


def guesses_p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Return a bound on the probability of at least `right` right guesses (theorem 5.2).

    A guess is right with probability e^epsilon / (1 + e^epsilon) at most. Delta adds to this as in
    the algorithm of the paper's appendix D.
    """
    chance = 1 / (1 + np.exp(-epsilon))
    beta = float(binom.sf(right - 1, guesses, chance))
    steps = np.arange(1, right + 1)
    mass = np.cumsum(binom.pmf(right - steps, guesses, chance))
    alpha = float((mass / steps).max(initial=0.0))
    return min(1.0, beta + 2 * alpha * delta * canaries)
