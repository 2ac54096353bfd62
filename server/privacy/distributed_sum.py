"""The integers and the noise of a sum to which each client adds a share of the noise.

Each client adds ``round(s Z)`` to its integers, and n of them answer. Their sum is distributed as
the rounded sum of the integers, of continuous Gaussian noise with the variance n s^2, and of
uniform numbers that do not depend on the data, up to a total variation of about
``n exp(-pi^2 s^2)`` per coordinate. So the exact composition of Gaussian noise holds, and needs no
correction as soon as s is `LEAST_SHARE` steps: exp(-pi^2 4^2) < 1e-68. docs/privacy.md has the
proof.
"""

import math
from dataclasses import dataclass

from fedser.client.privacy.distributed import LEAST_SHARE, counted_clients
from fedser.client.privacy.rounded_gaussian import grid_step
from fedser.client.secure_aggregation.session import degree_and_threshold
from fedser.common.errors import UserError

TAIL = 8.0
"""Standard deviations of noise that a coordinate of a sum exceeds with a chance of 1.3e-15."""

HALF = 2**31
"""Integers of a sum are taken modulo 2^32; numbers from HALF on are negative."""

COARSEST = 64
"""Fewest grid steps per coordinate if all coordinates of an update are equal."""


def least_clients(cohort: int, dropout: float) -> int:
    """Return the number of clients that must answer: at least two, so that there is a sum."""
    # A rounding error below the least fraction of a client must not lower the number.
    return max(2, math.ceil(cohort * (1 - dropout) - 1e-9))


@dataclass(frozen=True)
class DistributedSum:
    """A sum of a cohort's integers.

    Attributes
    ----------
    cohort : int
        Clients that are asked.
    min_clients : int
        Fewest clients that must answer; `counted_clients` of them carry the noise that counts.
    step : float
        Value of the integer 1, a power of two.
    share_stddev : float
        Noise of one client on each coordinate, in the units of an update.
    """

    cohort: int
    min_clients: int
    step: float
    share_stddev: float

    @classmethod
    def of(
        cls, cohort: int, dropout: float, clipping_norm: float, stddev: float, size: int
    ) -> "DistributedSum":
        """Choose the grid, and divide the noise among the clients whose noise counts.

        Parameters
        ----------
        dropout : float
            Share of the cohort that may vanish.
        stddev : float
            Noise that the sum needs on each of `size` coordinates.

        Raises
        ------
        UserError
            If the noise or the sum does not fit into integers of 32 bits.
        """
        min_clients = least_clients(cohort, dropout)
        share = stddev / math.sqrt(max(1, counted_clients(cohort, min_clients)))
        largest = cohort * clipping_norm + TAIL * share * math.sqrt(cohort)
        # Room for one rounding step of each client.
        fitting = 2.0 ** math.ceil(math.log2(largest / (HALF - cohort)))
        smooth = 2.0 ** math.floor(math.log2(share / LEAST_SHARE))
        step = max(min(grid_step(clipping_norm, size, share), smooth), fitting)
        if step * math.sqrt(size) * COARSEST > clipping_norm:
            raise UserError(
                f"privacy=distributed: the sum of {cohort} clients with {size:,} weights does not "
                "fit into integers of 32 bits: lower cohort_fraction, or share fewer weights"
            )
        if share < LEAST_SHARE * step:
            raise UserError(
                "privacy=distributed: the noise is too small for its integers: lower "
                "privacy.epsilon, or raise privacy.noise_multiplier"
            )
        return cls(cohort, min_clients, step, share)

    def check_cohort(self, secure: bool) -> None:
        """Reject a cohort that cannot be summed; raise UserError.

        Parameters
        ----------
        secure : bool
            Whether the clients send their integers under masks.
        """
        if self.cohort < 2:
            raise UserError(
                "privacy=distributed sums the updates of at least 2 clients: raise cohort_fraction"
            )
        if secure:
            degree_and_threshold(self.cohort, self.cohort, self.min_clients)
