"""The one-run audit, against closed forms and randomised response."""

import math
from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from fedser.attacks.evaluation import one_run
from fedser.attacks.evaluation.one_run import epsilon_bound, guesses_p_value, one_run_bound
from fedser.server.privacy.composition import Releases
from fedser.server.rounds.audit_batches import OneRun


@pytest.mark.parametrize("guesses", [20, 400])
def test_right_guesses_alone_give_the_bound_in_closed_form(guesses):
    # (e^epsilon / (1 + e^epsilon))^guesses = 0.05
    chance = 0.05 ** (1 / guesses)
    expected = math.log(chance / (1 - chance))
    assert epsilon_bound(guesses, guesses, guesses, 0.0, 0.95) == pytest.approx(expected, abs=1e-4)


def test_random_guesses_give_the_bound_zero():
    assert epsilon_bound(1000, 1000, 500, 0.0, 0.95) == 0
    assert guesses_p_value(100, 100, 60, 0.0, 0.0) == pytest.approx(binom.sf(59, 100, 0.5))


def test_a_delta_lowers_the_bound():
    bounds = [epsilon_bound(1000, 200, 190, delta, 0.95) for delta in (0.0, 1e-6, 1e-4)]
    assert bounds[0] > bounds[1] > bounds[2] > 0


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 4.0])
def test_the_bound_covers_randomised_response(epsilon, monkeypatch):
    """A score shows the truth with the probability that epsilon allows."""
    # The bound follows from a few numbers of right guesses.
    monkeypatch.setattr(one_run, "epsilon_bound", cache(epsilon_bound))
    random = np.random.default_rng(0)
    bounds = []
    for _ in range(200):
        included = random.random(1000) < 0.5
        truth = random.random(1000) < 1 / (1 + math.exp(-epsilon))
        scores = np.where(truth, included, ~included) + random.normal(0, 1e-3, 1000)
        bounds.append(one_run_bound(OneRun(scores, included, Releases(1)), 0.0, 0.95))
    # at most 5 % above, and binomial error on 200 trials
    assert np.mean(np.array(bounds) > epsilon) < binom.ppf(1 - 1e-6, 200, 0.05) / 200
    assert np.median(bounds) > 0.4 * epsilon
