"""What a client applies to its update, last before it is sent."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from scipy.special import chdtri

from fedser.client.privacy.noise import GradientClip, clip_factor, keep_only, udp_stddev
from fedser.client.privacy.rounded_gaussian import add_gaussian, add_noise, grid_step
from fedser.common.arrays import Arrays
from fedser.common.seeds import NoiseSource

FALSE_ALARM = 1e-9
"""Probability that an honest update exceeds its norm bound."""


class Mechanism:
    """What every mechanism answers; by default the update leaves as it is.

    A subclass is a frozen dataclass of plain fields: it travels with each round's request.
    """

    @property
    def gradient(self) -> GradientClip | None:
        """What local training does to gradients."""
        return None

    @property
    def metrics(self) -> tuple[str, ...]:
        """What leaves the device beside the update."""
        return ("num_examples", "loss")

    def stddev(self, num_examples: int) -> float:
        """Largest noise on a coordinate of the update of a client with so many utterances."""
        return 0.0

    def norm_bound(self, update: Arrays) -> float:
        """L2 norm that an honest update of this shape does not exceed."""
        return math.inf

    def protect(self, update: Arrays, num_examples: int, noise: NoiseSource) -> Arrays:
        """Return what may leave the device."""
        return update


@dataclass(frozen=True)
class NoMechanism(Mechanism):
    """The update leaves in the clear."""


@dataclass(frozen=True)
class UserLevelDP(Mechanism):
    """UDP as published: clipped batch gradients, Gaussian noise on every shared weight.

    It has no norm bound: clipped gradients do not bound an Adam update.

    Attributes
    ----------
    gradient_clip : float
        C of the paper, 0.25.
    sampling_rate, num_rounds : float, int
        q and T, from which the paper expects q T releases a client.
    epsilon, delta : float
        The paper's nominal guarantee; delta is 0.5 there.
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
        """The number of utterances, which its updates are weighted by."""
        return ("num_examples",)

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

    def protect(self, update: Arrays, num_examples: int, noise: NoiseSource) -> Arrays:
        """Add the noise."""
        return add_gaussian(update, self.stddev(num_examples), noise)


@dataclass(frozen=True)
class Withholding(Mechanism):
    """What mechanisms with a guarantee share: only the update leaves, unless asked otherwise.

    Attributes
    ----------
    share_metrics : bool
        Whether the number of utterances and the loss leave too, outside the guarantee.
    """

    share_metrics: bool

    @property
    def metrics(self) -> tuple[str, ...]:
        """What leaves the device beside the update."""
        return super().metrics if self.share_metrics else ()


@dataclass(frozen=True)
class CentralDP(Withholding):
    """The client's part of central differential privacy; clip and noise are the server's.

    Attributes
    ----------
    shared : list of str
        Names of the parameters that leave the device; the others are sent as zeros.
    """

    shared: list[str]

    def protect(self, update: Arrays, num_examples: int, noise: NoiseSource) -> Arrays:
        """Leave out what is not shared."""
        return keep_only(update, self.shared)


@dataclass(frozen=True)
class LocalDP(Withholding):
    """Local differential privacy: the update is clipped, then noised, on the device.

    Update and noise are multiples of one step for each group, added as integers: the sum is the
    rounded sum of the update and continuous noise, so its bits tell no more than epsilon allows.

    Attributes
    ----------
    groups : list of list of str
        Names of the shared parameters, in groups that are each clipped and noised together:
        one for the whole update, or one a layer. Other parameters are sent as zeros.
    clipping_norms : list of float
        Bound on the L2 norm of each group.
    noise : list of float
        Standard deviation on each coordinate of each group.
    """

    groups: list[list[str]]
    clipping_norms: list[float]
    noise: list[float]

    def stddev(self, num_examples: int) -> float:
        """Largest noise; how much a client holds plays no part."""
        return max(self.noise)

    def norm_bound(self, update: Arrays) -> float:
        """L2 norm that an honest update of this shape exceeds once in a thousand million."""
        sizes = [sum(update[name].size for name in group) for group in self.groups]
        squared = sum(
            stddev**2 * chdtri(size, FALSE_ALARM / len(sizes))  # chi-squared
            for stddev, size in zip(self.noise, sizes, strict=True)
        )
        return math.hypot(*self.clipping_norms) + math.sqrt(squared)

    def protect(self, update: Arrays, num_examples: int, noise: NoiseSource) -> Arrays:
        """Clip, add noise, and leave out what is not shared."""
        sent: Arrays = {}
        for group, norm, stddev in zip(self.groups, self.clipping_norms, self.noise, strict=True):
            own = {name: update[name] for name in group}
            factor = clip_factor(own, norm)
            step = grid_step(norm, sum(array.size for array in own.values()), stddev)
            sent |= {n: add_noise(a, factor, step, stddev, noise) for n, a in own.items()}
        return keep_only(update | sent, sent)


@dataclass(frozen=True)
class DPSGD(Withholding):
    """Differentially private training on the device; the update is post-processing of it.

    It has no norm bound: noisy gradients do not bound an Adam update.

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

    def stddev(self, num_examples: int) -> float:
        """Not a number: noise on gradients has no standard deviation on an Adam update."""
        return math.nan


def build_mechanism(settings: Mapping[str, Any], anywhere: bool = True) -> Mechanism:
    """Make a mechanism: ``_target_`` names its class as ``module.Class``, the rest its fields.

    Parameters
    ----------
    anywhere : bool
        Whether to import the class from any module, or from this one alone.

    Raises
    ------
    ValueError
        If there is no such class, it is not a `Mechanism`, or has other fields.
    """
    fields = dict(settings)
    target = str(fields.pop("_target_", ""))
    module, _, name = target.rpartition(".")
    if not (module == __name__ or anywhere):
        raise ValueError(f"{target} is not a mechanism of {__name__}")
    try:
        found = getattr(import_module(module), name)
    except (AttributeError, ImportError, ValueError) as error:
        raise ValueError(f"_target_={target}: no such class ({error})") from error
    if not (isinstance(found, type) and issubclass(found, Mechanism)):
        raise ValueError(f"_target_={target} is not a subclass of {__name__}.Mechanism")
    try:
        return found(**fields)
    except TypeError as error:
        raise ValueError(f"_target_={target}: {error}") from error
