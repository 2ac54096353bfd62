from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import kstest

from fedser.client.privacy import rounded_gaussian
from fedser.common.errors import UserError
from fedser.common.seeds import Reproducible, SystemEntropy
from fedser.server.privacy.matrix_factorization import (
    RESOLUTION,
    WHITE,
    optimal_coefficients,
    round_stddevs,
    white_noise,
)
from fedser.server.strategy import sum_noise
from fedser.server.strategy.sum_noise import STATE, SumNoise

SIZES = {"w": 3000, "b": 500}
STDDEV = 900.0
COEFFICIENTS = optimal_coefficients(4, 12)


def source(turn):
    return Reproducible(0, "noise", turn)


def draws(noise, turns):
    return [noise.draw(turn, STDDEV, source(turn)) for turn in turns]


def flat(drawn):
    return np.stack([np.concatenate([one["w"], one["b"]]) for one in drawn]).astype(float)


def test_independent_noise_is_drawn_as_before():
    (drawn,) = draws(SumNoise(SIZES, WHITE, None), [7])
    same = source(7)
    for name, size in SIZES.items():
        expected = rounded_gaussian.gaussian_integers(size, STDDEV, same)
        np.testing.assert_array_equal(drawn[name], expected)


def test_noise_solves_the_recurrence_exactly(monkeypatch):
    white = []

    def watched(count, stddev, noise):
        white.append(rounded_gaussian.gaussian_integers(count, stddev, noise))
        return white[-1].copy()

    monkeypatch.setattr(sum_noise, "gaussian_integers", watched)
    drawn = [one["w"] for one in draws(SumNoise({"w": 4}, COEFFICIENTS, None), range(1, 9))]
    for t, w in enumerate(white):
        for i in range(4):
            exact = Fraction(int(w[i]), RESOLUTION)
            for lag in range(1, min(4, t + 1)):
                exact -= Fraction(COEFFICIENTS[lag]) * int(drawn[t - lag][i])
            assert abs(exact - int(drawn[t][i])) <= Fraction(1, 2)


def test_noise_has_the_law_of_the_factorisation():
    found = flat(draws(SumNoise(SIZES, COEFFICIENTS, None), range(1, 13)))
    spread = STDDEV / np.linalg.norm(COEFFICIENTS)
    expected = spread * round_stddevs(COEFFICIENTS, 12)
    # a standard deviation of n samples has the relative error 1 / sqrt(2 n)
    np.testing.assert_allclose(found.std(axis=1), expected, rtol=4.5 / np.sqrt(2 * 3500))
    white = white_noise(found, COEFFICIENTS) / spread
    assert kstest(white.ravel(), "norm").pvalue > 1e-4
    correlations = np.corrcoef(white) - np.eye(12)
    assert np.abs(correlations).max() < 4.5 / np.sqrt(3500)


def test_a_new_object_goes_on_where_the_last_one_stopped(tmp_path):
    whole = flat(draws(SumNoise(SIZES, COEFFICIENTS, None), range(1, 9)))
    parts = []
    for turns in ([1, 2], [3], [4, 5, 6, 7], [8]):
        noise = SumNoise(SIZES, COEFFICIENTS, tmp_path)
        assert noise.drawn == turns[0] - 1
        parts += draws(noise, turns)
    np.testing.assert_array_equal(flat(parts), whole)


def test_no_turn_is_drawn_twice(tmp_path):
    draws(SumNoise(SIZES, COEFFICIENTS, tmp_path), [1, 2])
    again = SumNoise(SIZES, COEFFICIENTS, tmp_path)
    for turn in (1, 2):
        with pytest.raises(ValueError, match="drawn before"):
            draws(again, [turn])


def test_a_turn_that_was_begun_and_lost_still_counts(tmp_path):
    draws(SumNoise(SIZES, COEFFICIENTS, tmp_path), [1, 2])
    noise = SumNoise(SIZES, COEFFICIENTS, tmp_path)  # the run was killed in turn 3
    draws(noise, [4])
    assert noise.drawn == SumNoise(SIZES, COEFFICIENTS, tmp_path).drawn == 4


def test_noise_is_on_the_disk_before_it_is_used(tmp_path, monkeypatch):
    noise = SumNoise(SIZES, COEFFICIENTS, tmp_path)

    def fail(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fedser.common.files.sync", fail)
    with pytest.raises(OSError, match="No space"):
        draws(noise, [1])
    assert not (tmp_path / STATE).exists()


def test_noise_without_correlation_writes_nothing(tmp_path):
    draws(SumNoise(SIZES, WHITE, tmp_path), [1, 2])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"nothing", b"\x02" + bytes(7) + b"{}"])
def test_a_damaged_state_is_rejected(content, tmp_path):
    (tmp_path / STATE).write_bytes(content)
    with pytest.raises(UserError, match=r"noise.safetensors: damaged; start the run anew"):
        SumNoise(SIZES, COEFFICIENTS, tmp_path)


@pytest.mark.parametrize(
    ("sizes", "coefficients"),
    [({**SIZES, "b": 501}, COEFFICIENTS), (SIZES, optimal_coefficients(4, 30))],
)
def test_the_state_of_other_noise_is_rejected(sizes, coefficients, tmp_path):
    draws(SumNoise(SIZES, COEFFICIENTS, tmp_path), [1])
    with pytest.raises(UserError, match="noise of another federation"):
        SumNoise(sizes, coefficients, tmp_path)


def test_the_state_of_another_fold_is_rejected(tmp_path):
    draws(SumNoise(SIZES, COEFFICIENTS, tmp_path, "fold 0"), [1])
    assert SumNoise(SIZES, COEFFICIENTS, tmp_path, "fold 0").drawn == 1
    with pytest.raises(UserError, match="noise of another federation"):
        SumNoise(SIZES, COEFFICIENTS, tmp_path, "fold 1")


def test_the_largest_noise_stays_within_the_integers():
    # the grid is so coarse that the white noise has at most 2^30 steps
    coefficients = optimal_coefficients(20, 100)
    noise = SumNoise({"w": 400}, coefficients, None)
    found = np.stack([noise.draw(t, 2.0**30, SystemEntropy())["w"] for t in range(1, 30)])
    spread = np.linalg.norm(coefficients)
    white = white_noise(found.astype(float), coefficients) * spread / 2**30
    assert kstest(white.ravel(), "norm").pvalue > 1e-4
