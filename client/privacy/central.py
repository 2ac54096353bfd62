"""The client's part of central differential privacy (`privacy=central`, `central_adaptive`)."""

from dataclasses import dataclass

from fedser.client.privacy.base import GuaranteedMechanism
from fedser.client.privacy.noise import keep_only
from fedser.common.arrays import Arrays
from fedser.common.seeds import NoiseSource


@dataclass(frozen=True)
class CentralDP(GuaranteedMechanism):
    """Send the shared parameters without noise; the server clips, sums and adds the noise.

    Attributes
    ----------
    shared : list of str
        Names of the parameters that leave the device; the others are sent as zeros.
    """

    shared: list[str]

    def protect(self, update: Arrays, num_examples: int, noise: NoiseSource) -> Arrays:
        """Replace the parameters that are not shared by zeros."""
        return keep_only(update, self.shared)
