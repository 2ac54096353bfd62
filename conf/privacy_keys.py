"""The keys of ``conf/privacy``, and the combinations of them that can be guaranteed."""

import math
from dataclasses import dataclass
from typing import Any

from fedser.common.errors import UserError, check_choice
from fedser.conf.mechanisms import KEYS, MECHANISMS, RELATIONS, UNITS, VANTAGES, MechanismSpec

ACCOUNTANTS = {
    "pld": "privacy loss distributions (dp-accounting)",
    "prv": "privacy random variables (Opacus)",
    "rdp": "Renyi differential privacy (dp-accounting)",
}
CHOICES = {
    "mechanism": tuple(MECHANISMS),
    "unit": UNITS,
    "relation": RELATIONS,
    "vantage": VANTAGES,
    "cross_validation": ("released", "evaluation"),
}
AGGREGATIONS = ("secure", "plain", "ckks")


@dataclass
class PrivacyConfig:
    """Keys of ``conf/privacy``; None if the mechanism does not apply a key.

    Attributes
    ----------
    mechanism : str
        A name in `conf.mechanisms.MECHANISMS`.
    epsilon : float or None
        UDP: the nominal epsilon. Otherwise: the epsilon that noise is calibrated to.
    noise_multiplier : float or None
        Standard deviation over sensitivity, instead of `epsilon`.
    nominal_delta : float or None
        UDP: the delta of the published formula, 0.5.
    clipping_norm : float or None
        Bound on an L2 norm. UDP bounds each batch gradient, DP-SGD each utterance's gradient, and
        the other mechanisms the whole update. For central_adaptive it is the initial bound.
    delta : float
        Delta of the guarantee.
    unit : str
        What is protected: one ``utterance``, one ``client``, or one ``speaker`` (all clients of a
        speaker together).
    relation : str
        The difference between neighbouring data sets. ``add_remove``: one unit more or less;
        participation must be secret. ``zero_out``: a unit's updates are replaced by zeros
        (Kairouz et al., 2021). ``replace_one``: a unit's updates are replaced by any others. With
        the last two everybody may know who took part.
    vantage : str
        The observer that the guarantee holds against. ``attributed``: a server that sees every
        update with its sender. ``sum``: an observer who sees the noised sums and knows who took
        part. ``outsider``: an observer who sees every model but does not know who took part.
    accountant : str or None
        ``pld``, ``prv`` or ``rdp``, for sampled releases.
    layers : str
        Layers that leave the device, named as in ``transcript.layers``.
    layer_shares : list of float or None
        Layered: the share of the privacy budget that each layer spends, first layer to last. A
        smaller share means more noise.
    target_quantile, clip_learning_rate : float or None
        Adaptive clipping: gamma and eta of Andrew et al. (2021).
    count_noise : float or None
        Adaptive clipping: standard deviation of the noise on the count of unclipped clients. None:
        a twentieth of the expected cohort, but never so little that the count costs more than a
        quarter of the budget.
    bands : int or None
        Matrix factorisation: the number b of groups that take turns, and of rounds over which
        noise is correlated. None: the number with the least noise in the models.
    aggregation : str or None
        Distributed noise: ``secure`` (the server learns the sum of a cohort only) or ``plain`` (it
        sees each update with its small share of the noise; to compare). Without a mechanism:
        ``plain`` (the server sees each update) or ``ckks`` (it adds encrypted updates, and a node
        decrypts the sum).
    dropout : float or None
        Distributed noise and ckks: share of a cohort that may vanish. Of distributed noise the
        others then still carry the noise of the sum. A round in which more vanish is lost.
    kept : float or None
        Without a mechanism: share of the coordinates of an update that are sent in a pruned round.
        None or 1: all.
    refresh : int or None
        Without a mechanism: in every `refresh`-th round, from the first one on, all coordinates are
        sent. Those with the largest mean are sent in the rounds after it.
    share_metrics : bool
        Whether the number of utterances and the loss leave the device, outside the guarantee.
    reproducible_noise : bool
        Draw noise and secret cohorts from the seed, not from the operating system's entropy. The
        reported epsilon is then the epsilon that secret noise would give.
    cross_validation : str
        ``released``: the models and updates of all folds count; epsilon is that of the run.
        ``evaluation``: the folds only estimate utility and one model is released; epsilon is that
        of one federation.
    stop_at_epsilon : float or None
        Stop before the round that would spend more.
    custom : dict or None
        Custom: the class and the fields of the user's mechanism, as in
        `client.privacy.mechanisms.build_mechanism`. Nothing is accounted for it.
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
    bands: int | None = None
    aggregation: str | None = None
    dropout: float | None = None
    kept: float | None = None
    refresh: int | None = None
    share_metrics: bool = False
    reproducible_noise: bool = False
    cross_validation: str = "released"
    stop_at_epsilon: float | None = None
    custom: dict[str, Any] | None = None

    @property
    def spec(self) -> MechanismSpec:
        """The properties of the mechanism."""
        return MECHANISMS[self.mechanism]

    @property
    def title(self) -> str:
        """The name of the mechanism in reports."""
        return str((self.custom or {"_target_": self.mechanism})["_target_"])

    @property
    def states_epsilon(self) -> bool:
        """Whether reports state an epsilon that holds.

        A class of the user has none, even if it inherits from a mechanism that has one.
        """
        return self.spec.accounted

    @property
    def central(self) -> bool:
        """Whether the server adds the noise, once to the sum of a cohort."""
        return self.spec.noise_at == "server"

    @property
    def summed(self) -> bool:
        """Whether the updates of a cohort are summed before the noise protects them."""
        return self.spec.noise_at in ("server", "shares")

    @property
    def encrypted(self) -> bool:
        """Whether the server adds updates that it cannot decrypt."""
        return self.aggregation == "ckks"

    @property
    def hidden(self) -> bool:
        """Whether the server sees sums and no update of a single client."""
        return self.aggregation in ("secure", "ckks")

    @property
    def secret_noise(self) -> bool:
        """Whether noise and secret cohorts come from the operating system's entropy."""
        return self.states_epsilon and not self.reproducible_noise

    @property
    def secret_cohorts(self) -> bool:
        """Whether epsilon relies on nobody knowing who took part."""
        return self.central and self.vantage == "outsider"

    def check(self) -> None:
        """Reject a configuration that cannot be applied or guaranteed.

        Raises
        ------
        UserError
            Naming the key.
        """
        for key, choices in CHOICES.items():
            check_choice(f"privacy.{key}", getattr(self, key), choices)
        self._check_aggregation()
        self._check_keys()
        self._check_numbers()
        self._check_vantage()
        self._check_relation()
        self._check_unit()
        if self.layers != "all" and not self.spec.selects_layers:
            raise UserError(
                f"privacy.layers={self.layers}: privacy={self.mechanism} shares every layer"
            )
        if self.spec.guaranteed and (self.epsilon is None) == (self.noise_multiplier is None):
            raise UserError(
                f"privacy={self.mechanism} takes either privacy.epsilon or "
                "privacy.noise_multiplier: set exactly one of them"
            )

    def _check_aggregation(self) -> None:
        """Reject an aggregation that the mechanism does not have, and one without its keys."""
        if self.aggregation is None:
            return
        check_choice("privacy.aggregation", self.aggregation, AGGREGATIONS)
        if self.aggregation not in self.spec.aggregations:
            remedies = {
                "secure": "set privacy=distributed",
                "plain": "leave privacy.aggregation out",
                "ckks": "set privacy=none",
            }
            if self.mechanism == "distributed":
                remedies["ckks"] = "set privacy.aggregation=secure"
            raise UserError(
                f"privacy.aggregation={self.aggregation} does not go together with "
                f"privacy={self.mechanism}: {remedies[self.aggregation]}"
            )
        if self.encrypted and self.dropout is None:
            raise UserError("privacy.dropout is missing, privacy.aggregation=ckks needs it")

    def _check_keys(self) -> None:
        for key in KEYS:
            is_set = getattr(self, key) is not None
            if not is_set and key in self.spec.needed:
                raise UserError(f"privacy.{key} is missing, privacy={self.mechanism} needs it")
            if is_set and key not in (*self.spec.needed, *self.spec.optional):
                raise UserError(
                    f"privacy.{key} is set, but privacy={self.mechanism} does not apply it: "
                    "leave it out, or choose privacy=local or another mechanism that applies it"
                )

    def _check_numbers(self) -> None:
        positive = ["epsilon", "noise_multiplier", "clipping_norm", "clip_learning_rate"]
        positive += ["count_noise", "stop_at_epsilon"]
        values = {key: getattr(self, key) for key in positive}
        values |= {f"layer_shares[{i}]": share for i, share in enumerate(self.layer_shares or [])}
        for key, value in values.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UserError(f"privacy.{key}={value} must be a finite number above 0")
        for key in ("delta", "nominal_delta", "target_quantile"):
            value = getattr(self, key)
            if value is not None and not 0 < value < 1:
                raise UserError(f"privacy.{key}={value} must lie between 0 and 1")
        if self.bands is not None and self.bands < 1:
            raise UserError(f"privacy.bands={self.bands} must be at least 1")
        if self.accountant is not None:
            check_choice("privacy.accountant", self.accountant, ACCOUNTANTS)
        if self.kept is not None and not 0 < self.kept <= 1:
            raise UserError(f"privacy.kept={self.kept} must be above 0 and at most 1")
        if self.kept is not None and self.refresh is None:
            raise UserError("privacy.refresh is missing, privacy.kept needs it")
        if self.refresh is not None and self.refresh < 1:
            raise UserError(f"privacy.refresh={self.refresh} must be at least 1")
        if self.dropout is not None and not 0 <= self.dropout < 0.5:
            raise UserError(f"privacy.dropout={self.dropout} must be at least 0 and below 0.5")

    def _check_vantage(self) -> None:
        if self.vantage in self.spec.relations:
            return
        asked = f"privacy.vantage={self.vantage}: privacy={self.mechanism}"
        if self.central:
            raise UserError(
                f"{asked} adds its noise on the server, so it guarantees nothing against a server "
                "that sees each update: choose privacy=local"
            )
        raise UserError(
            f"{asked} is accounted for against the server, which sees more than anybody else: "
            "leave privacy.vantage=attributed"
        )

    def _check_relation(self) -> None:
        allowed = self.spec.relations[self.vantage]
        if self.relation in allowed:
            return
        asked = f"privacy.relation={self.relation}: privacy={self.mechanism}"
        if allowed == ("add_remove",):
            drawn = "clients" if self.central else "batches"
            other = " (or choose privacy.vantage=sum)" if self.central else ""
            raise UserError(
                f"{asked} draws {drawn} at random, which is accounted for only with "
                f"privacy.relation=add_remove{other}"
            )
        reason = ": everybody knows who took part" if self.relation == "add_remove" else ""
        raise UserError(
            f"{asked} with privacy.vantage={self.vantage} is accounted for only with "
            f"privacy.relation={' or '.join(allowed)}{reason}"
        )

    def _check_unit(self) -> None:
        if self.unit not in self.spec.units:
            units = " or ".join(f"{'an' if u == 'utterance' else 'a'} {u}" for u in self.spec.units)
            raise UserError(
                f"privacy.unit={self.unit}: privacy={self.mechanism} guarantees {units}"
            )
        if self.secret_cohorts and self.unit == "speaker" and self.accountant != "pld":
            raise UserError(
                "privacy.unit=speaker: the clients of a speaker are drawn independently, which "
                f"needs privacy.accountant=pld, not {self.accountant}"
            )
