"""Local differential privacy (`privacy=local`, `privacy=layered`)."""

import math
from dataclasses import dataclass

from scipy.special import chdtri

from fedser.client.privacy.base import FALSE_ALARM, GuaranteedMechanism, gaussian_dp
from fedser.client.privacy.noise import clip_factor, keep_only
from fedser.client.privacy.rounded_gaussian import add_noise, grid_step
from fedser.common.arrays import Arrays
from fedser.common.seeds import NoiseSource


@dataclass(frozen=True)
class LocalDP(GuaranteedMechanism):
    """Clip the update and add noise to it on the device.

    In each group the update and the noise are multiples of one step and are added as integers.
    The sum equals the rounded sum of the update and continuous noise, so that its bits tell no
    more than epsilon allows.

    Attributes
    ----------
    groups : list of list of str
        Names of the shared parameters. The parameters of one group are clipped together: one
        group for the whole update, or one group per layer. Other parameters are sent as zeros.
    clipping_norms : list of float
        Bound on the L2 norm of each group.
    noise : list of float
        Standard deviation of the noise on each coordinate of each group.
    """

    groups: list[list[str]]
    clipping_norms: list[float]
    noise: list[float]

    def stddev(self, num_examples: int) -> float:
        """Return the largest noise; it does not depend on the client's number of utterances."""
        return max(self.noise)

    def mu(self, steps: int) -> float:
        """Return clip over noise of all groups together."""
        pairs = zip(self.clipping_norms, self.noise, strict=True)
        return math.hypot(*(gaussian_dp(norm, stddev) for norm, stddev in pairs))

    def norm_bound(self, update: Arrays) -> float:
        """Return a norm that an honest update of this shape exceeds with chance `FALSE_ALARM`."""
        sizes = [sum(update[name].size for name in group) for group in self.groups]
        squared = sum(
            stddev**2 * chdtri(size, FALSE_ALARM / len(sizes))  # chi-squared
            for stddev, size in zip(self.noise, sizes, strict=True)
        )
        return math.hypot(*self.clipping_norms) + math.sqrt(squared)

    def protect(self, update: Arrays, num_examples: int, noise: NoiseSource) -> Arrays:
        """Clip, add noise, and replace the parameters that are not shared by zeros."""
        sent: Arrays = {}
        for group, norm, stddev in zip(self.groups, self.clipping_norms, self.noise, strict=True):
            own = {name: update[name] for name in group}
            factor = clip_factor(own, norm)
            step = grid_step(norm, sum(array.size for array in own.values()), stddev)
            sent |= {n: add_noise(a, factor, step, stddev, noise) for n, a in own.items()}
        return keep_only(update | sent, sent)
