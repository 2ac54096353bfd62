"""Correlated noise against dense matrices, and against the figures of jax-privacy 2.0."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from fedser.client.privacy.gaussian import gaussian_mu
from fedser.common.errors import UserError
from fedser.server.privacy.composition import Releases, calibrated_noise
from fedser.server.privacy.matrix_factorization import (
    WHITE,
    largest_bands,
    num_bands,
    optimal_coefficients,
    prefix_stddevs,
    round_stddevs,
    turn_rate,
    white_noise,
)
from tests.examples import CENTRAL, MATRIX

SIZES = [(1, 5), (2, 9), (3, 3), (4, 12), (7, 5), (10, 40)]


def dense(coefficients, num_rounds):
    """The lower triangular Toeplitz matrix C."""
    padded = np.zeros(num_rounds)
    padded[: len(coefficients)] = coefficients[:num_rounds]
    rows = np.arange(num_rounds)
    return np.tril(padded[np.abs(rows[:, None] - rows)])


@pytest.mark.parametrize(("bands", "num_rounds"), SIZES)
def test_noise_is_that_of_the_dense_matrices(bands, num_rounds):
    found = optimal_coefficients(bands, num_rounds)
    matrix = dense(found, num_rounds)
    inverse, norm = np.linalg.inv(matrix), np.linalg.norm(found)
    models = np.linalg.norm(np.tril(np.ones_like(matrix)) @ inverse, axis=1) * norm
    np.testing.assert_allclose(prefix_stddevs(found, num_rounds), models, rtol=1e-9)
    sums = np.linalg.norm(inverse, axis=1) * norm
    np.testing.assert_allclose(round_stddevs(found, num_rounds), sums, rtol=1e-9)
    white = np.random.default_rng(0).normal(size=(num_rounds, 3))
    np.testing.assert_allclose(white_noise(inverse @ white * norm, found), white, atol=1e-9)


@pytest.mark.parametrize(("bands", "num_rounds"), [(2, 7), (3, 8), (4, 4)])
def test_no_schedule_that_keeps_its_turns_moves_more(bands, num_rounds):
    matrix = dense(optimal_coefficients(bands, num_rounds), num_rounds)
    allowed = math.hypot(*optimal_coefficients(bands, num_rounds))
    allowed *= math.sqrt(-(-num_rounds // bands))
    most = 0.0
    for present in product((0, 1), repeat=num_rounds):
        turns = np.flatnonzero(present)
        if len(turns) and np.all(np.diff(turns) >= bands):
            # clipped updates may point anywhere: columns that overlap never do here
            gram = matrix[:, turns].T @ matrix[:, turns]
            assert np.allclose(gram, np.diag(np.diag(gram)))
            most = max(most, math.sqrt(np.trace(gram)))
    assert 0.9 * allowed < most <= allowed * (1 + 1e-12)


@pytest.mark.parametrize(
    ("bands", "num_rounds", "coefficients", "loss"),
    [  # toeplitz.optimize_banded_toeplitz and toeplitz.loss of jax-privacy 2.0.0, float64
        (10, 200, [1, 0.633494, 0.540264, 0.490178, 0.455436, 0.427779], 14.5335449),
        (2, 200, [1, 0.805727], 52.2113684),
        (5, 10, [1, 0.501710, 0.354725, 0.267473, 0.202475], 2.7151792),
        (16, 64, [1, 0.534449, 0.416141, 0.355173, 0.315594, 0.286678], 5.5227556),
    ],
)
def test_coefficients_are_those_of_jax_privacy(bands, num_rounds, coefficients, loss):
    found = optimal_coefficients(bands, num_rounds)
    assert len(found) == bands
    np.testing.assert_allclose(found[: len(coefficients)], coefficients, atol=6e-4)
    mean_square = float(np.mean(prefix_stddevs(found, num_rounds) ** 2))
    assert mean_square == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(("bands", "num_rounds"), [(2, 30), (5, 60), (12, 20)])
def test_no_other_coefficients_give_less_noise(bands, num_rounds):
    found = optimal_coefficients(bands, num_rounds)
    least = np.mean(prefix_stddevs(found, num_rounds) ** 2)
    random = np.random.default_rng(1)
    for size in (0.001, 0.02, 0.3):
        other = (1.0, *(np.array(found[1:]) + random.normal(0, size, bands - 1)))
        assert np.mean(prefix_stddevs(other, num_rounds) ** 2) > least * (1 - 1e-6)


@pytest.mark.parametrize(
    ("epsilon", "matrix", "secret", "known", "everybody"),
    [(8, 102, 113, 269, 85), (2, 340, 301, 894, 283), (1, 636, 545, 1673, 529)],
)
def test_errors_of_200_rounds_are_the_published_ones(epsilon, matrix, secret, known, everybody):
    def error(releases, bands, cohort):
        noise = calibrated_noise((releases,), epsilon, 1e-5, "pld")
        stddevs = prefix_stddevs(optimal_coefficients(bands, 200), 200)
        return noise * float(np.sqrt(np.mean(stddevs**2))) / cohort

    assert error(Releases(20), 10, 0.1) == pytest.approx(matrix, rel=0.02)
    assert error(Releases(200, 0.1), 1, 0.1) == pytest.approx(secret, rel=0.02)
    assert error(Releases(20), 1, 0.1) == pytest.approx(known, rel=0.02)
    assert error(Releases(200), 1, 1.0) == pytest.approx(everybody, rel=0.02)


def test_white_noise_is_the_case_of_one_band():
    assert optimal_coefficients(1, 50) == WHITE
    np.testing.assert_allclose(prefix_stddevs(WHITE, 9), np.sqrt(np.arange(1, 10)))
    np.testing.assert_allclose(round_stddevs(WHITE, 9), 1)
    # every client has one turn: then there is nothing to gain by more bands than rounds
    assert optimal_coefficients(50, 4) == optimal_coefficients(4, 4)


@pytest.mark.parametrize(
    ("rate", "bands"), [(1.0, 1), (0.51, 1), (0.5, 2), (0.1, 10), (1 / 3, 3), (0.3, 3), (0.049, 20)]
)
def test_as_many_groups_take_turns_as_the_rate_allows(rate, bands):
    assert largest_bands(rate) == bands
    assert num_bands(MATRIX, rate, 20) == bands
    assert num_bands(CENTRAL, rate, 20) == 1


def test_secret_cohorts_have_the_bands_with_the_least_noise():
    outsider = replace(MATRIX, vantage="outsider", relation="add_remove")
    chosen = {eps: num_bands(replace(outsider, epsilon=eps), 0.1, 200) for eps in (1.0, 8.0, 30.0)}
    # sampling amplifies most at a small epsilon; without it all bands are used
    assert chosen[1.0] == 1 < chosen[8.0] <= chosen[30.0]
    assert num_bands(replace(outsider, bands=5), 0.1, 200) == 5
    noise = replace(outsider, epsilon=None, noise_multiplier=1.0)
    assert num_bands(noise, 0.1, 200) == 10


@pytest.mark.parametrize("groups", [3, 7, 49, 98, 103, 107])
def test_rounding_leaves_no_turn_to_chance(groups):
    assert turn_rate(largest_bands(1 / groups), 1 / groups) == 1.0
    assert turn_rate(2, 0.3) == 0.6


def test_an_epsilon_out_of_reach_is_left_to_the_plan():
    tiny = replace(MATRIX, vantage="outsider", relation="add_remove", epsilon=1e-6)
    assert num_bands(tiny, 0.1, 200) == 1


def test_more_groups_than_turns_are_rejected():
    with pytest.raises(UserError, match=r"privacy.bands=11: .* at most 10 groups; set fewer"):
        num_bands(replace(MATRIX, bands=11), 0.1, 200)


def test_turns_spend_what_single_releases_do():
    # 20 turns move the observer's rows as far as 20 releases do
    noise = calibrated_noise((Releases(20),), 8.0, 1e-5, "pld")
    assert math.sqrt(20) / noise == pytest.approx(gaussian_mu(8.0, 1e-5), rel=1e-6)
