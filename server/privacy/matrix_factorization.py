"""Noise that is correlated over rounds: banded matrix factorisation.

The sums x_1 ... x_T of all rounds are released as ``x + inverse(C) w``. Here w is white noise, and
C is a lower triangular Toeplitz matrix with the coefficients c_0 ... c_{b-1} in its first column.
An observer who multiplies by C sees ``C x + w``: one Gaussian release. A client that takes part
once moves ``C x`` by the norm of c. A client that takes part in every b-th round at most moves
disjoint rows of ``C x``, so the squares of its movements add up. The noise in a model, the sum of
the noise so far, is smaller than that of white noise at the same guarantee.

References
----------
Choquette-Choo, Ganesh, McKenna, McMahan, Rush, Thakurta and Xu (NeurIPS 2023), arXiv:2306.08153;
McMahan, Xu and Zhang (2024), arXiv:2408.08868, for Toeplitz coefficients.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from fedser.common.arrays import Floats64
from fedser.common.errors import UserError
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.server.privacy.composition import Releases, calibrated_noise

Coefficients = tuple[float, ...]

RESOLUTION: Final = 1024
"""Coefficients are multiples of 1 / RESOLUTION, so that the noise is computed in integers."""
WHITE: Final[Coefficients] = (1.0,)
"""Coefficients of noise that is independent over rounds."""
ROUNDING: Final = 1e-9


@lru_cache(maxsize=64)
def optimal_coefficients(bands: int, num_rounds: int) -> Coefficients:
    """Return c_0 = 1, c_1, ... with the least mean squared noise over the models of all rounds.

    Parameters
    ----------
    bands : int
        Number b of coefficients; coefficients beyond the number of rounds are left out.
    """
    from scipy.optimize import minimize  # slow to import

    # The start is the square root of the matrix of prefix sums (Fichtenberger et al., 2023).
    start = [1.0]
    for i in range(1, min(bands, num_rounds)):
        start.append(start[-1] * (2 * i - 1) / (2 * i))
    if len(start) == 1:
        return WHITE
    found = minimize(
        lambda free: _mean_square(np.array([1.0, *free]), num_rounds),
        start[1:],
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-9},
    )
    return 1.0, *(np.rint(found.x * RESOLUTION) / RESOLUTION).tolist()


def prefix_stddevs(coefficients: Coefficients, num_rounds: int) -> Floats64:
    """Return the standard deviation of the noise in the model after each round, shape (T,).

    The unit is the noise multiplier times the clipping norm: white noise gives 1, sqrt(2), ...
    """
    if coefficients == WHITE:  # without a slow import
        return np.asarray(np.sqrt(np.arange(1.0, num_rounds + 1)))
    norm = math.hypot(*coefficients)
    return np.asarray(norm * np.sqrt(np.cumsum(_prefix_sums(coefficients, num_rounds) ** 2)))


def round_stddevs(coefficients: Coefficients, num_rounds: int) -> Floats64:
    """Return the standard deviation of the noise on each round's sum, shape (T,).

    The unit is that of `prefix_stddevs`.
    """
    inverse = _filtered([1.0], coefficients, np.eye(1, num_rounds)[0])
    return np.asarray(math.hypot(*coefficients) * np.sqrt(np.cumsum(inverse**2)))


def white_noise(sums: Floats64, coefficients: Coefficients) -> Floats64:
    """Return ``C x / |c|`` for the noise x on the sums of T rounds, shape (T, ...).

    The result is independent over rounds, with the standard deviation of one release. An observer
    can compute it.
    """
    if coefficients == WHITE:
        return sums
    return _filtered(coefficients, [1.0], sums) / math.hypot(*coefficients)


@lru_cache(maxsize=64)
def _least_noise(
    sampling_rate: float, num_rounds: int, epsilon: float, delta: float, accountant: str
) -> int:
    """Return the number of bands with the least noise in the models, for secret participation."""
    most = largest_bands(sampling_rate)
    candidates = {most, *(1 << i for i in range(most.bit_length()))}

    def noise(bands: int) -> float:
        releases = Releases(-(-num_rounds // bands), turn_rate(bands, sampling_rate))
        stddevs = prefix_stddevs(optimal_coefficients(bands, num_rounds), num_rounds)
        try:
            multiplier = calibrated_noise((releases,), epsilon, delta, accountant)
        except ValueError:  # the plan rejects this epsilon
            return math.inf
        return multiplier * float(np.sqrt(np.mean(stddevs**2)))

    return min(sorted(candidates), key=noise)


def largest_bands(sampling_rate: float) -> int:
    """Return the largest number b of groups for which b times the sampling rate is at most 1."""
    return int(1 / sampling_rate + ROUNDING)


def turn_rate(bands: int, sampling_rate: float) -> float:
    """Return the probability that a client takes part in a round of its own turn."""
    rate = bands * sampling_rate
    return rate if rate < 1 - ROUNDING else 1.0  # rounding must not leave anything to chance


def num_bands(privacy: PrivacyConfig, sampling_rate: float, num_rounds: int) -> int:
    """Return after how many rounds it is a client's turn again; 1 for white noise.

    If participation is known, more bands give less noise, and the largest number is returned. If it
    is secret, fewer bands mean larger groups, from which each client is drawn with a smaller
    probability. The number with the least noise is then computed; without ``privacy.epsilon`` it is
    the largest number.

    Raises
    ------
    UserError
        If ``privacy.bands`` is too large for the share of clients in a round.
    """
    if not privacy.spec.correlated:
        return 1
    most = largest_bands(sampling_rate)
    if privacy.bands is not None:
        if privacy.bands > most:
            raise UserError(
                f"privacy.bands={privacy.bands}: with cohort_fraction={sampling_rate:g} there are "
                f"at most {most} groups; set fewer bands, or a smaller cohort_fraction"
            )
        return privacy.bands
    if not privacy.secret_cohorts or privacy.epsilon is None:
        return most
    return _least_noise(
        sampling_rate, num_rounds, privacy.epsilon, privacy.delta, privacy.accountant or "pld"
    )


def _mean_square(coefficients: Floats64, num_rounds: int) -> tuple[float, Floats64]:
    """Return the mean of the squares of `prefix_stddevs`, and its gradient (b - 1,)."""
    prefix = _prefix_sums(coefficients, num_rounds)
    weights = np.arange(num_rounds, 0, -1) / num_rounds
    squared_norm, error = float(coefficients @ coefficients), float(weights @ prefix**2)
    change = _filtered([1.0], coefficients, prefix)
    inner = [
        float((weights * prefix)[i:] @ change[: num_rounds - i])
        for i in range(1, len(coefficients))
    ]
    gradient = 2 * (coefficients[1:] * error - squared_norm * np.array(inner))
    return squared_norm * error, gradient


def _prefix_sums(coefficients: Sequence[float] | Floats64, num_rounds: int) -> Floats64:
    """Return the first column of the prefix sums of the inverse of C, shape (T,)."""
    return _filtered([1.0], np.convolve(coefficients, [1, -1]), np.eye(1, num_rounds)[0])


def _filtered(
    numerator: Sequence[float] | Floats64, denominator: Sequence[float] | Floats64, x: Floats64
) -> Floats64:
    from scipy.signal import lfilter  # slow to import

    return np.asarray(lfilter(numerator, denominator, x, axis=0))
