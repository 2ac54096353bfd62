"""The frozen privacy plan of a run: what is applied, and what may be claimed for it."""

import math
from dataclasses import dataclass
from functools import cached_property

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


def _check_positive(config: PrivacyConfig, *keys: str) -> None:
    for key in keys:
        value = getattr(config, key)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UserError(f"privacy.{key}={value} must be a finite number above 0")
