"""Differentially private training on the device (`privacy=dp_sgd`)."""

import math
from dataclasses import dataclass

from fedser.client.privacy.base import GuaranteedMechanism
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
        positive = self.noise_multiplier > 0
        return math.sqrt(steps) / self.noise_multiplier if positive else math.inf

    def stddev(self, num_examples: int) -> float:
        """Return NaN: noise on gradients has no standard deviation on an Adam update."""
        return math.nan
