"""The keys of ``conf/privacy``, and which combinations of them can be guaranteed."""

import math
from dataclasses import dataclass
from typing import Any

from fedser.common.errors import UserError, check_choice

CENTRAL = ("central", "central_adaptive")
LOCAL = ("local", "layered")
GUARANTEED = (*LOCAL, *CENTRAL, "dp_sgd")
"""Mechanisms that noise is calibrated for."""
ACCOUNTANTS = {
    "pld": "privacy loss distributions (dp-accounting)",
    "prv": "privacy random variables (Opacus)",
    "rdp": "Renyi differential privacy (dp-accounting)",
}
CHOICES = {
    "mechanism": ("none", "udp", *GUARANTEED, "custom"),
    "unit": ("utterance", "client", "speaker"),
    "relation": ("add_remove", "zero_out", "replace_one"),
    "vantage": ("attributed", "sum", "outsider"),
    "cross_validation": ("released", "evaluation"),
}
NEEDED = {
    "none": (),
    "udp": ("epsilon", "clipping_norm"),
    "local": ("clipping_norm",),
    "layered": ("clipping_norm", "layer_shares"),
    "central": ("clipping_norm", "accountant"),
    "central_adaptive": ("clipping_norm", "accountant", "target_quantile", "clip_learning_rate"),
    "dp_sgd": ("clipping_norm", "accountant"),
    "custom": ("custom",),
}
OPTIONAL = {
    "none": (),
    "custom": (),
    "udp": ("nominal_delta", "stop_at_epsilon"),
    "central_adaptive": ("epsilon", "noise_multiplier", "count_noise", "stop_at_epsilon"),
}
OF_SOME = (
    "epsilon",
    "noise_multiplier",
    "nominal_delta",
    "clipping_norm",
    "accountant",
    "layer_shares",
    "target_quantile",
    "clip_learning_rate",
    "count_noise",
    "stop_at_epsilon",
    "custom",
)
"""Keys that are None unless the mechanism applies them."""


@dataclass
class PrivacyConfig:
    """Keys of ``conf/privacy``; None where a mechanism does not apply one.

    Attributes
    ----------
    mechanism : str
        ``none``, ``udp``, ``local``, ``layered``, ``central``, ``central_adaptive``, ``dp_sgd``,
        or ``custom``.
    epsilon : float or None
        UDP: the nominal epsilon. Otherwise: the epsilon that noise is calibrated to.
    noise_multiplier : float or None
        Standard deviation over sensitivity, instead of `epsilon`.
    nominal_delta : float or None
        UDP: the delta that the published formula is evaluated at, 0.5.
    clipping_norm : float or None
        Bound on the L2 norm: of each batch gradient (UDP), of each utterance's gradient
        (DP-SGD), of the whole update otherwise; central_adaptive starts from it.
    delta : float
        Delta of the guarantee.
    unit : str
        ``utterance``, ``client``, or ``speaker``: all clients of one speaker together.
    relation : str
        What neighbouring data sets differ by. ``add_remove``: one unit more or less, where
        participation is secret. Where participation is known, the presence of a unit is visible:
        ``zero_out`` (its updates are replaced by zeros, Kairouz et al., 2021) or ``replace_one``
        (by any other updates).
    vantage : str
        Against whom: ``attributed``, a server that sees every update with its sender; ``sum``,
        whoever sees the noised sums and knows who took part; ``outsider``, whoever sees every
        model but does not know who took part.
    accountant : str or None
        ``pld``, ``prv`` or ``rdp``, for sampled releases.
    layers : str
        Layers that leave the device, named as in ``transcript.layers``.
    layer_shares : list of float or None
        Layered: share of the privacy budget that each layer spends, first to last; the
        smaller, the more noise.
    target_quantile, clip_learning_rate : float or None
        Adaptive clipping: gamma and eta of Andrew et al. (2021).
    count_noise : float or None
        Adaptive clipping: standard deviation on the count of unclipped clients. None: a
        twentieth of the expected cohort, but enough to cost a quarter of the budget at most.
    share_metrics : bool
        Send the number of utterances and the loss too, outside the guarantee.
    reproducible_noise : bool
        Draw noise and secret cohorts from the seed, not from the operating system's entropy.
        The printed epsilon is then the epsilon that secret noise would give.
    cross_validation : str
        ``released``: the models and updates of all folds count, epsilon is that of the run.
        ``evaluation``: the folds only estimate utility, one model is released, and epsilon is
        that of one federation.
    stop_at_epsilon : float or None
        Stop before the round that would spend more.
    custom : dict or None
        Custom: what each client applies, as of `client.privacy.mechanisms.build_mechanism`. Nothing
        is accounted for it.
    """

    mechanism: str = "none"
    epsilon: float | None = None
    noise_multiplier: float | None = None
    nominal_delta: float | None = None
    clipping_norm: float | None = None
    delta: float = 1e-5
    unit: str = "client"
    relation: str = "replace_one"
    vantage: str = "attributed"
    accountant: str | None = None
    layers: str = "all"
    layer_shares: list[float] | None = None
    target_quantile: float | None = None
    clip_learning_rate: float | None = None
    count_noise: float | None = None
    share_metrics: bool = False
    reproducible_noise: bool = False
    cross_validation: str = "released"
    stop_at_epsilon: float | None = None
    custom: dict[str, Any] | None = None

    @property
    def title(self) -> str:
        """What reports call the mechanism."""
        return str((self.custom or {"_target_": self.mechanism})["_target_"])

    @property
    def states_epsilon(self) -> bool:
        """Whether an epsilon is printed: of the mechanisms in this module's tables alone.

        A class that the user writes has none, even if it inherits from a mechanism that has one.
        """
        return self.mechanism in (*GUARANTEED, "udp")

    @property
    def secret_noise(self) -> bool:
        """Whether noise and secret cohorts come from the system's entropy."""
        return self.states_epsilon and not self.reproducible_noise

    @property
    def secret_cohorts(self) -> bool:
        """Whether epsilon relies on nobody knowing who took part."""
        return self.mechanism in CENTRAL and self.vantage == "outsider"

    def check(self) -> None:
        """Refuse what cannot be applied or guaranteed.

        Raises
        ------
        UserError
            Naming the key.
        """
        for key, choices in CHOICES.items():
            check_choice(f"privacy.{key}", getattr(self, key), choices)
        self._check_keys()
        self._check_numbers()
        for refused, reason in self._refusals():
            if refused:
                raise UserError(reason)
        calibrated = self.mechanism in GUARANTEED
        if calibrated and (self.epsilon is None) == (self.noise_multiplier is None):
            raise UserError(
                f"privacy={self.mechanism} takes either privacy.epsilon or "
                "privacy.noise_multiplier: set one of them, and only one"
            )

    def _check_keys(self) -> None:
        needed = NEEDED[self.mechanism]
        optional = OPTIONAL.get(self.mechanism, ("epsilon", "noise_multiplier", "stop_at_epsilon"))
        for key in OF_SOME:
            value = getattr(self, key)
            if value is None and key in needed:
                raise UserError(f"privacy.{key} is missing, privacy={self.mechanism} needs it")
            if value is not None and key not in (*needed, *optional):
                raise UserError(
                    f"privacy.{key} is set, but privacy={self.mechanism} does not apply it: "
                    "leave it out, or choose privacy=local or another mechanism that does"
                )

    def _check_numbers(self) -> None:
        shares = self.layer_shares or []
        positive = ["epsilon", "noise_multiplier", "clipping_norm", "clip_learning_rate"]
        positive += ["count_noise", "stop_at_epsilon"]
        values = {key: getattr(self, key) for key in positive}
        values |= {f"layer_shares[{i}]": share for i, share in enumerate(shares)}
        for key, value in values.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UserError(f"privacy.{key}={value} must be a finite number above 0")
        fractions = ["delta"] + ["nominal_delta"] * (self.mechanism == "udp")
        fractions += ["target_quantile"] * (self.target_quantile is not None)
        for key in fractions:
            value = getattr(self, key)
            if value is None or not 0 < value < 1:
                raise UserError(f"privacy.{key}={value} must lie between 0 and 1")
        if self.accountant is not None:
            check_choice("privacy.accountant", self.accountant, ACCOUNTANTS)

    def _refusals(self) -> list[tuple[bool, str]]:
        """Return what cannot be guaranteed, each with whether it is asked for."""
        name, central = f"privacy={self.mechanism}", self.mechanism in CENTRAL
        outsider = central and self.vantage == "outsider"
        on_client = self.mechanism in ("udp", *LOCAL, "dp_sgd", "custom")
        return [
            (
                central and self.vantage == "attributed",
                f"privacy.vantage=attributed: {name} adds its noise on the server, so against a "
                "server that sees each update nothing is guaranteed: choose privacy=local",
            ),
            (
                on_client and self.vantage != "attributed",
                f"privacy.vantage={self.vantage}: {name} is accounted for against the server, "
                "which sees more than anybody else: leave privacy.vantage=attributed",
            ),
            (
                outsider and self.relation != "add_remove",
                f"privacy.relation={self.relation}: {name} draws clients at random, which is "
                "accounted for as add_remove alone (or choose privacy.vantage=sum)",
            ),
            (
                self.mechanism in (*LOCAL, *CENTRAL)
                and not outsider
                and self.relation == "add_remove",
                f"privacy.relation=add_remove: with {name} and privacy.vantage={self.vantage} "
                "everybody knows who took part, so removing a unit would show; choose "
                "privacy.relation=zero_out or replace_one",
            ),
            (
                outsider and self.unit == "speaker" and self.accountant != "pld",
                f"privacy.unit=speaker: several clients drawn by themselves need "
                f"privacy.accountant=pld, not {self.accountant}",
            ),
            (
                self.mechanism != "none" and (self.unit == "utterance") != self._per_utterance,
                f"privacy.unit={self.unit}: {name} guarantees "
                + ("an utterance" if self._per_utterance else "a client or a speaker"),
            ),
            (
                self._per_utterance and self.relation != "add_remove",
                f"privacy.relation={self.relation}: {name} draws its batches at random, which is "
                "accounted for as add_remove alone",
            ),
            (
                self.mechanism == "udp" and self.relation != "replace_one",
                f"privacy.relation={self.relation}: the epsilon of {name} is known for "
                "replace_one alone",
            ),
            (
                self.mechanism in ("none", "udp", "dp_sgd", "custom") and self.layers != "all",
                f"privacy.layers={self.layers}: {name} shares every layer",
            ),
        ]

    @property
    def _per_utterance(self) -> bool:
        return self.mechanism == "dp_sgd"
