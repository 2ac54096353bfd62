"""The device's part of distributed differential privacy (`privacy=distributed`)."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import chdtri

from fedser.client.privacy.base import FALSE_ALARM, GuaranteedMechanism, gaussian_dp
from fedser.client.privacy.noise import clip_factor, keep_only
from fedser.client.privacy.rounded_gaussian import add_truncated, gaussian_integers
from fedser.client.secure_aggregation.session import CORRUPT
from fedser.common.arrays import Arrays
from fedser.common.seeds import NoiseSource

LEAST_SHARE = 4.0
"""Least standard deviation of one client's noise in steps: see `server.privacy.distributed_sum`."""

Integers = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class DistributedDP(GuaranteedMechanism):
    """Clip the update and add a share of the noise of the sum; send integers modulo 2^32.

    The shares of `counted_clients` clients add up to the noise that the sum needs: of those that
    answer, some may tell the server their share. The integers of many clients can be summed under
    masks (`client.secure_aggregation`), so that nobody sees the update of a client with its small
    noise.

    Attributes
    ----------
    shared : list of str
        Names of the parameters that leave the device; the others are sent as zeros.
    clipping_norm : float
        Bound on the L2 norm of the update.
    step : float
        Value of the integer 1.
    noise : float
        Standard deviation of this client's noise on each coordinate.
    cohort, min_clients : int
        Clients that are asked, and the fewest whose sum may be opened.
    masked : bool
        Whether the integers are sent under masks.

    References
    ----------
    Kairouz, Liu and Steinke (2021), arXiv:2102.06387, with Gaussian noise that is rounded: see
    docs/privacy.md.
    """

    shared: list[str]
    clipping_norm: float
    step: float
    noise: float
    cohort: int
    min_clients: int
    masked: bool

    def stddev(self, num_examples: int) -> float:
        """Return the noise; it does not depend on the client's number of utterances."""
        return self.noise

    def mu(self, steps: int) -> float:
        """Return clip over the noise of the sum, or over the own noise if nothing is masked."""
        counted = counted_clients(self.cohort, self.min_clients) if self.masked else 1
        return gaussian_dp(self.clipping_norm, self.noise * math.sqrt(max(0, counted)))

    def norm_bound(self, update: Arrays) -> float:
        """Return a norm that an honest update exceeds with chance `FALSE_ALARM`.

        It is infinite under masks: nobody can check the update of a single client.
        """
        if self.masked:
            return math.inf
        size = sum(update[name].size for name in self.shared)
        return self.clipping_norm + self.noise * math.sqrt(chdtri(size, FALSE_ALARM))

    def protect(self, update: Arrays, num_examples: int, noise: NoiseSource) -> Arrays:
        """Return the values of the integers that `encode` sends, without masks."""
        sent = {name: decoded(a, self.step) for name, a in self.encode(update, noise).items()}
        return keep_only(update | sent, sent)

    def encode(self, update: Arrays, noise: NoiseSource) -> dict[str, Integers]:
        """Return the shared parameters as integers modulo 2^32, with noise.

        Values are truncated toward zero, so that the norm does not grow.

        Raises
        ------
        ValueError
            If the noise is below `LEAST_SHARE` steps: rounding would then take too much of it.
        """
        if not self.noise >= LEAST_SHARE * self.step > 0:
            raise ValueError(
                f"noise={self.noise:g} is below {LEAST_SHARE:g} steps of {self.step:g}"
            )
        own = {name: update[name] for name in self.shared}
        factor = clip_factor(own, self.clipping_norm)
        encoded = {}
        for name, array in own.items():
            total = gaussian_integers(array.size, self.noise / self.step, noise)
            add_truncated(total, np.ascontiguousarray(array).reshape(-1), factor, self.step)
            encoded[name] = total.astype(np.uint32).reshape(array.shape)
        return encoded


def counted_clients(cohort: int, min_clients: int) -> int:
    """Return the number of clients whose noise counts: not that of those who may tell their share.

    At least one client knows its own share: everybody who takes part sees the sums.
    """
    return min_clients - max(1, int(CORRUPT * cohort))


def decoded(integers: Integers, step: float) -> npt.NDArray[np.float32]:
    """Return the values of integers modulo 2^32; the upper half of them are negative numbers."""
    values: npt.NDArray[np.float32] = (integers.view(np.int32) * step).astype(np.float32)
    return values
