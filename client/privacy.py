"""What a client applies to its update, last before it is sent."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.stats import chi2

from client.mechanism import Arrays, add_gaussian, clip_by_norm, udp_stddev


@dataclass(frozen=True)
class NoMechanism:
    """The update leaves as it is.

    Attributes
    ----------
    gradient_clip : None
        A mechanism's bound on the norm of each batch gradient during training, if any.
    metrics : tuple of str
        What leaves the device beside the update.
    """

    name: ClassVar[str] = "none"
    gradient_clip: ClassVar[None] = None
    metrics: ClassVar[tuple[str, ...]] = ("num_examples", "loss")

    def stddev(self, num_examples: int) -> float:
        """Noise on each coordinate of the update of a client with so many utterances."""
        return 0.0

    def norm_bound(self, update: Arrays) -> float:
        """L2 norm that an honest update of this shape does not exceed."""
        return math.inf

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
    metrics: ClassVar[tuple[str, ...]] = ("num_examples",)  # its updates are weighted by it
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

    def norm_bound(self, update: Arrays) -> float:
        """No bound: clipped gradients do not bound an Adam update."""
        return math.inf

    def protect(self, update: Arrays, num_examples: int, rng: np.random.Generator) -> Arrays:
        """Add the noise."""
        return add_gaussian(update, self.stddev(num_examples), rng)


@dataclass(frozen=True)
class LocalDP:
    """Local differential privacy: the whole update is clipped, then noised, on the device.

    Attributes
    ----------
    clipping_norm : float
        Bound C on the L2 norm of what is shared.
    noise : float
        Standard deviation on each shared coordinate.
    shared : list of str
        Names of the parameters that leave the device; the others are sent as zeros.
    share_metrics : bool
        Whether the number of utterances and the loss leave too, outside the guarantee.
    """

    name: ClassVar[str] = "local"
    gradient_clip: ClassVar[None] = None
    clipping_norm: float
    noise: float
    shared: list[str]
    share_metrics: bool

    @property
    def metrics(self) -> tuple[str, ...]:
        """What leaves the device beside the update."""
        return ("num_examples", "loss") if self.share_metrics else ()

    def stddev(self, num_examples: int) -> float:
        """Noise; how much a client holds plays no part."""
        return self.noise

    def norm_bound(self, update: Arrays) -> float:
        """L2 norm that an honest update of this shape exceeds once in a thousand million."""
        dimension = sum(update[name].size for name in self.shared)
        return self.clipping_norm + self.noise * math.sqrt(chi2.isf(1e-9, dimension))

    def protect(self, update: Arrays, num_examples: int, rng: np.random.Generator) -> Arrays:
        """Clip, add noise, and leave out what is not shared."""
        shared = clip_by_norm({name: update[name] for name in self.shared}, self.clipping_norm)
        noised = add_gaussian(shared, self.noise, rng)
        return {name: noised.get(name, np.zeros_like(array)) for name, array in update.items()}


Mechanism = NoMechanism | UserLevelDP | LocalDP
MECHANISMS: dict[str, type[Mechanism]] = {m.name: m for m in (NoMechanism, UserLevelDP, LocalDP)}
