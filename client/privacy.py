"""What a client applies to its update, last before it is sent."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from client.mechanism import Arrays, add_gaussian, udp_stddev


@dataclass(frozen=True)
class NoMechanism:
    """The update leaves as it is.

    Attributes
    ----------
    gradient_clip : None
        A mechanism's bound on the norm of each batch gradient during training, if any.
    """

    name: ClassVar[str] = "none"
    gradient_clip: ClassVar[None] = None

    def stddev(self, num_examples: int) -> float:
        """Noise on each coordinate of the update of a client with so many utterances."""
        return 0.0

    def protect(self, update: Arrays, num_examples: int, rng: np.random.Generator) -> Arrays:
        """Return what may leave the device."""
        return update


@dataclass(frozen=True)
class UserLevelDP:
    """UDP as published: clipped batch gradients, Gaussian noise on every shared weight.

    Attributes
    ----------
    gradient_clip : float
        C of the paper, 0.25.
    sampling_rate, num_rounds : float, int
        q and T, from which the paper expects q T releases a client.
    epsilon, delta : float
        The paper's nominal guarantee; delta is 0.5 there.
    """

    name: ClassVar[str] = "udp"
    gradient_clip: float
    sampling_rate: float
    num_rounds: int
    epsilon: float
    delta: float

    def stddev(self, num_examples: int) -> float:
        """Noise of the published formula; small clients get more."""
        return udp_stddev(
            clipping_norm=self.gradient_clip,
            num_examples=num_examples,
            sampling_rate=self.sampling_rate,
            num_rounds=self.num_rounds,
            epsilon=self.epsilon,
            delta=self.delta,
        )

    def protect(self, update: Arrays, num_examples: int, rng: np.random.Generator) -> Arrays:
        """Add the noise."""
        return add_gaussian(update, self.stddev(num_examples), rng)


Mechanism = NoMechanism | UserLevelDP
MECHANISMS: dict[str, type[Mechanism]] = {m.name: m for m in (NoMechanism, UserLevelDP)}
