"""Gaussian differential privacy in closed form: epsilon from mu, and mu from epsilon.

Releases of Gaussian noise with sensitivity over standard deviation mu_1, mu_2, ... compose to
``sqrt(mu_1^2 + mu_2^2 + ...)``, exactly (Dong, Roth and Su, 2019, corollary 3.3).
"""

import math

from scipy.special import log_ndtr, ndtri

HUGE = 1e4
"""Mu above which e^epsilon Phi(-mu/2 - epsilon/mu) is negligible, and less than its rounding."""


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the exact epsilon of mu-Gaussian differential privacy at `delta`.

    References
    ----------
    Balle and Wang (ICML 2018), theorem 8; Dong, Roth and Su (2019), corollary 2.13.
    """
    if mu == 0:
        return 0.0
    high = mu * mu / 2 - mu * float(ndtri(delta))  # without the second term; inf for inf
    if mu > HUGE:
        return high

    def excess(epsilon: float) -> float:
        # log of Phi(mu/2 - eps/mu) - e^eps Phi(-mu/2 - eps/mu), stable for epsilon of thousands
        first = float(log_ndtr(mu / 2 - epsilon / mu))
        second = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
        if second >= first:
            return -math.inf
        return first + math.log1p(-math.exp(second - first)) - math.log(delta)

    if excess(0.0) <= 0:
        return 0.0
    from scipy.optimize import brentq  # slow to import, and runs without noise do not need it

    return float(brentq(lambda e: max(excess(e), -1e3), 0.0, high + 1, xtol=1e-9, rtol=1e-12))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """Return the largest mu that (epsilon, delta) allows: the inverse of `gaussian_epsilon`."""
    high = 1.0
    while gaussian_epsilon(high, delta) <= epsilon:
        high *= 2
    low = high / 2 if high > 1 else 0.0
    for _ in range(60):  # bisection from below: epsilon is never exceeded
        middle = (low + high) / 2
        if gaussian_epsilon(middle, delta) <= epsilon:
            low = middle
        else:
            high = middle
    return low
