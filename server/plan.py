"""The frozen privacy plan of a run: what is applied, and what may be claimed for it."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from client.errors import UserError
from client.privacy import LocalDP, Mechanism, NoMechanism, UserLevelDP
from server.gaussian import gaussian_mu

CHOICES = {
    "mechanism": ("none", "udp", "local"),
    "unit": ("client", "speaker"),
    "relation": ("add_remove", "replace_one"),
}
NEEDED = {"none": (), "udp": ("epsilon", "clipping_norm"), "local": ("clipping_norm",)}
IGNORED = {
    "none": ("epsilon", "noise_multiplier", "clipping_norm", "stop_at_epsilon"),
    "udp": ("noise_multiplier",),
    "local": (),
}


@dataclass
class PrivacyConfig:
    """Keys of ``conf/privacy``.

    Attributes
    ----------
    mechanism : str
        ``none``, ``udp`` or ``local``.
    epsilon : float or None
        UDP: the nominal epsilon. Local: the epsilon that noise is calibrated to.
    noise_multiplier : float or None
        Local: standard deviation over sensitivity, instead of `epsilon`.
    nominal_delta : float or None
        UDP: the delta that the published formula is evaluated at, 0.5.
    clipping_norm : float or None
        Bound on the L2 norm, of each batch gradient (UDP) or of the whole update (local).
    delta : float
        Delta of the guarantee.
    unit : str
        ``client``, or ``speaker``: all clients of one speaker together.
    relation : str
        ``add_remove`` or ``replace_one``: what neighbouring data sets differ by.
    layers : str
        Local: layers that leave the device, named as in ``transcript.layers``.
    share_metrics : bool
        Local: send the number of utterances and the loss too, outside the guarantee.
    stop_at_epsilon : float or None
        Stop before the round that would spend more.
    """

    mechanism: str = "none"
    epsilon: float | None = None
    noise_multiplier: float | None = None
    nominal_delta: float | None = None
    clipping_norm: float | None = None
    delta: float = 1e-5
    unit: str = "client"
    relation: str = "replace_one"
    layers: str = "all"
    share_metrics: bool = False
    stop_at_epsilon: float | None = None


@dataclass(frozen=True)
class PrivacyPlan:
    """A checked privacy configuration, coupled to the rounds and sampling it applies to.

    Noise, sensitivity and what is accounted for all derive from it, so they cannot drift apart.

    Attributes
    ----------
    sampling_rate : float
        Share of clients in a round (fixed-size cohorts: no amplification may be claimed).
    num_rounds : int
        Rounds planned.
    releases : int
        How often the busiest unit takes part in them; known beforehand, since cohorts are
        drawn from the seed and not from data.
    shared : tuple of str
        Parameters that leave the device.
    """

    config: PrivacyConfig
    sampling_rate: float
    num_rounds: int
    releases: int = 1
    shared: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be applied.

        Raises
        ------
        UserError
            Naming the key.
        """
        c = self.config
        for key, choices in CHOICES.items():
            if getattr(c, key) not in choices:
                raise UserError(
                    f"privacy.{key}={getattr(c, key)} is not one of {', '.join(choices)}"
                )
        for key in IGNORED[c.mechanism]:
            if getattr(c, key) is not None:
                raise UserError(
                    f"privacy.{key} is set, but privacy={c.mechanism} does not apply it: "
                    "leave it out or choose privacy=local or privacy=udp"
                )
        _check_positive(c, "epsilon", "noise_multiplier", "clipping_norm", "stop_at_epsilon")
        for key in NEEDED[c.mechanism]:
            if getattr(c, key) is None:
                raise UserError(f"privacy.{key} is missing, privacy={c.mechanism} needs it")
        self._check_deltas()
        if c.mechanism == "udp" and c.relation != "replace_one":
            raise UserError(
                f"privacy.relation={c.relation}: what privacy=udp spends is known for "
                "replace_one alone"
            )
        if c.mechanism == "local" and (c.epsilon is None) == (c.noise_multiplier is None):
            raise UserError(
                "privacy=local takes either privacy.epsilon or privacy.noise_multiplier: "
                "set one of them, and only one"
            )

    def _check_deltas(self) -> None:
        keys = ("delta", "nominal_delta") if self.config.mechanism == "udp" else ("delta",)
        for key in keys:
            delta = getattr(self.config, key)
            if delta is None or not 0 < delta < 1:
                raise UserError(f"privacy.{key}={delta} must lie between 0 and 1")

    @cached_property
    def noise_multiplier(self) -> float | None:
        """Standard deviation over sensitivity; None where the mechanism has none of its own."""
        c = self.config
        if c.mechanism != "local" or c.noise_multiplier is not None:
            return c.noise_multiplier
        assert c.epsilon is not None  # checked above
        return math.sqrt(max(1, self.releases)) / gaussian_mu(c.epsilon, c.delta)

    @property
    def sensitivity(self) -> float:
        """How far one unit can move one release of one client, in L2 norm (local)."""
        assert self.config.clipping_norm is not None
        return self.config.clipping_norm * (2 if self.config.relation == "replace_one" else 1)

    def client_mechanism(self) -> Mechanism:
        """Return what each client applies."""
        c = self.config
        if c.mechanism == "none":
            return NoMechanism()
        assert c.clipping_norm is not None
        if c.mechanism == "local":
            assert self.noise_multiplier is not None
            return LocalDP(
                clipping_norm=c.clipping_norm,
                noise=self.noise_multiplier * self.sensitivity,
                shared=list(self.shared),
                share_metrics=c.share_metrics,
            )
        assert c.epsilon is not None and c.nominal_delta is not None
        return UserLevelDP(
            gradient_clip=c.clipping_norm,
            sampling_rate=self.sampling_rate,
            num_rounds=self.num_rounds,
            epsilon=c.epsilon,
            delta=c.nominal_delta,
        )

    def statement(
        self, epsilon: float | None, releases: int, num_examples: npt.NDArray[np.int64], shards: int
    ) -> dict[str, Any]:
        """Say what is guaranteed, as ``results.json`` has it; what is not is None.

        Parameters
        ----------
        epsilon : float or None
            Spent by the unit that spent most.
        releases : int
            Updates that the server saw of that unit.
        num_examples : ndarray of int64, shape (N,)
            Training utterances of each client.
        shards : int
            Clients that one speaker holds.
        """
        c, guaranteed = self.config, epsilon is not None
        return {
            "mechanism": c.mechanism,
            "unit": c.unit if guaranteed else None,
            "relation": c.relation if guaranteed else None,
            "vantage": "the server sees every update with its sender",
            "delta": c.delta if guaranteed else None,
            "epsilon": epsilon,
            "nominal_epsilon": c.epsilon if c.mechanism == "udp" else None,
            "nominal_delta": c.nominal_delta,
            "accountant": "exact Gaussian composition" if guaranteed else None,
            "releases_max": releases,
            "warnings": self._warnings(num_examples, shards),
        }

    def _warnings(self, num_examples: npt.NDArray[np.int64], shards: int) -> list[str]:
        if self.config.mechanism == "none":
            return [NO_MECHANISM]
        warnings = [NO_AMPLIFICATION, SEEDED_NOISE]
        if self.config.mechanism == "udp":
            warnings = [*self._udp_warnings(num_examples), *warnings]
        elif self.config.share_metrics:
            warnings.append(METRICS_SHARED)
        if shards > 1 and self.config.unit == "client":
            warnings.append(
                f"The unit is a client, and one speaker holds {shards}: the speaker's epsilon is "
                "larger. Ask for privacy.unit=speaker to see it."
            )
        return warnings

    def _udp_warnings(self, num_examples: npt.NDArray[np.int64]) -> list[str]:
        mechanism = self.client_mechanism()
        largest, smallest = (
            mechanism.stddev(int(n)) for n in (num_examples.max(), num_examples.min())
        )
        nominal = (
            f"The nominal epsilon {self.config.epsilon:g} at delta {self.config.nominal_delta:g} "
            "does not hold: the published composition drops a term that dominates at this delta, "
            "and a delta of 0.5 allows a total breach every other time."
        )
        counts = (
            f"Noise depends on how much a client holds: standard deviation {largest:.2g} for the "
            f"largest client, {smallest:.2g} for the smallest. The number of utterances itself "
            "leaves the device in the clear, and epsilon takes it as public."
        )
        return [nominal, CLIPPED_GRADIENTS, counts]


NO_MECHANISM = (
    "No privacy mechanism: updates, example counts and training losses leave the device in the "
    "clear, and nothing is guaranteed."
)
CLIPPED_GRADIENTS = (
    "Clipping gradients does not bound an Adam update: its first step is about learning rate "
    "times the sign of the gradient. Epsilon above uses the bound that does hold."
)
NO_AMPLIFICATION = (
    "The server sees every update with its sender, so drawing a cohort amplifies nothing."
)
SEEDED_NOISE = (
    "Noise is drawn from a seeded generator, so that research can be repeated: whoever knows the "
    "seed can subtract it. Floating-point noise leaks a little more than the formulas say "
    "(Mironov, 2012)."
)
METRICS_SHARED = (
    "Example counts and losses leave the device outside the guarantee (privacy.share_metrics)."
)


def _check_positive(config: PrivacyConfig, *keys: str) -> None:
    for key in keys:
        value = getattr(config, key)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UserError(f"privacy.{key}={value} must be a finite number above 0")
