"""User-level differential privacy (UDP) as published in 2022 (`privacy=udp`)."""

from dataclasses import dataclass

from fedser.client.privacy.base import Mechanism
from fedser.client.privacy.noise import GradientClip, udp_stddev
from fedser.client.privacy.rounded_gaussian import add_gaussian
from fedser.common.arrays import Arrays
from fedser.common.seeds import NoiseSource


@dataclass(frozen=True)
class UserLevelDP(Mechanism):
    """UDP as published: clipped batch gradients, and Gaussian noise on every shared weight.

    It has no norm bound, because clipped gradients do not bound an Adam update.

    Attributes
    ----------
    gradient_clip : float
        C of the paper, 0.25.
    sampling_rate, num_rounds : float, int
        q and T, from which the paper expects q T releases per client.
    epsilon, delta : float
        The paper's nominal guarantee; the paper's delta is 0.5.
    """

    gradient_clip: float
    sampling_rate: float
    num_rounds: int
    epsilon: float
    delta: float

    @property
    def gradient(self) -> GradientClip:
        """Clip the mean gradient of each batch."""
        return GradientClip(self.gradient_clip, "batch")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The number of utterances, because the server weights the updates by it."""
        return ("num_examples",)

    def stddev(self, num_examples: int) -> float:
        """Return the noise of the published formula; smaller clients get more."""
        return udp_stddev(
            clipping_norm=self.gradient_clip,
            num_examples=num_examples,
            sampling_rate=self.sampling_rate,
            num_rounds=self.num_rounds,
            epsilon=self.epsilon,
            delta=self.delta,
        )

    def protect(self, update: Arrays, num_examples: int, noise: NoiseSource) -> Arrays:
        """Add the noise."""
        return add_gaussian(update, self.stddev(num_examples), noise)
