"""Rounding at random keeps the mean and saves bits. Attacks must measure what it hides."""

from dataclasses import dataclass

import numpy as np

from fedser.client.privacy.base import Mechanism
from fedser.common.arrays import Arrays
from fedser.common.seeds import NoiseSource, uniforms


@dataclass(frozen=True)
class Rounding(Mechanism):
    """Round each coordinate to one of the two nearest multiples of a step, at random.

    Attributes
    ----------
    step : float
        Distance between two multiples, in update units.
    """

    step: float

    def stddev(self, num_examples: int) -> float:
        """Return the largest standard deviation: half way between two multiples."""
        return self.step / 2

    def protect(self, update: Arrays, num_examples: int, noise: NoiseSource) -> Arrays:
        """Return the rounded update."""
        sent: Arrays = {}
        for name, array in update.items():
            drawn = uniforms(noise, array.size).reshape(array.shape)  # in [0, 1)
            sent[name] = (np.floor(array / self.step + drawn) * self.step).astype(np.float32)
        return sent
