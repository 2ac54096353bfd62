"""The base classes of the mechanisms, which a client applies to its update before it is sent."""

import math
from dataclasses import dataclass

from fedser.client.privacy.noise import GradientClip
from fedser.common.arrays import Arrays
from fedser.common.seeds import NoiseSource

FALSE_ALARM = 1e-9
"""Probability that an honest update exceeds its norm bound."""


class Mechanism:
    """The interface of all mechanisms. By default the update is sent unchanged.

    A subclass must be a frozen dataclass of plain fields, because each round's request carries it.
    """

    @property
    def gradient(self) -> GradientClip | None:
        """The clip and the noise that local training applies to gradients; None for neither."""
        return None

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that leave the device beside the update."""
        return ("num_examples", "loss")

    def stddev(self, num_examples: int) -> float:
        """Return the largest standard deviation of the noise on one coordinate of an update.

        Parameters
        ----------
        num_examples : int
            Training utterances of the client.
        """
        return 0.0

    def mu(self, steps: int) -> float:
        """Return sensitivity over noise of one update, as the device knows it.

        Infinite if the device does not guarantee anything by itself. The sensitivity is that of
        zero-out: the unit's data against none.

        Parameters
        ----------
        steps : int
            Steps of local training.
        """
        return math.inf

    def norm_bound(self, update: Arrays) -> float:
        """Return the L2 norm that no honest update of this shape exceeds; infinite if unknown."""
        return math.inf

    def protect(self, update: Arrays, num_examples: int, noise: NoiseSource) -> Arrays:
        """Return the update as it may leave the device.

        Parameters
        ----------
        num_examples : int
            Training utterances of the client.
        noise : NoiseSource
            The only source of random bits that a mechanism may use.
        """
        return update


def gaussian_dp(sensitivity: float, stddev: float) -> float:
    """Return mu, sensitivity over noise; infinite for numbers that are no sensitivity or noise.

    A server chooses both, so they may be negative, infinite or NaN.
    """
    return sensitivity / stddev if 0 <= sensitivity < math.inf and stddev > 0 else math.inf


@dataclass(frozen=True)
class NoMechanism(Mechanism):
    """The update leaves in the clear."""


@dataclass(frozen=True)
class GuaranteedMechanism(Mechanism):
    """Base of the mechanisms with a guarantee: by default no metric leaves the device.

    Attributes
    ----------
    share_metrics : bool
        Whether the number of utterances and the loss leave too, outside the guarantee.
    """

    share_metrics: bool

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that leave the device beside the update."""
        return super().metrics if self.share_metrics else ()
