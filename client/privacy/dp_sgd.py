"""Differentially private training on the device (`privacy=dp_sgd`)."""

import math
from dataclasses import dataclass

from fedser.client.privacy.base import GuaranteedMechanism, gaussian_dp
from fedser.client.privacy.noise import GradientClip


@dataclass(frozen=True)
class DPSGD(GuaranteedMechanism):
    """DP-SGD on the device; the update is computed from the noised gradients alone.

    It has no norm bound, because noised gradients do not bound an Adam update.

    Attributes
    ----------
    clipping_norm : float
        Bound on the L2 norm of each utterance's gradient.
    noise_multiplier : float
        Standard deviation of the noise on the sum of a batch's gradients, over that bound.
    """

    clipping_norm: float
    noise_multiplier: float

    @property
    def gradient(self) -> GradientClip:
        """Clip the gradient of each utterance and add noise to their sum."""
        return GradientClip(self.clipping_norm, "utterance", self.noise_multiplier)

    def mu(self, steps: int) -> float:
        """Return the mu of all steps for one utterance, as if each step held it."""
        stddev = self.noise_multiplier * self.clipping_norm
        return math.sqrt(steps) * gaussian_dp(self.clipping_norm, stddev)

    def stddev(self, num_examples: int) -> float:
        """Return NaN: noise on gradients has no standard deviation on an Adam update."""
        return math.nan
