"""The table of privacy mechanisms: what each one needs, allows and guarantees."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

UNITS = ("utterance", "client", "speaker")
RELATIONS = ("add_remove", "zero_out", "replace_one")
VANTAGES = ("attributed", "sum", "outsider")
CALIBRATED = ("epsilon", "noise_multiplier", "stop_at_epsilon")
"""Optional keys of every mechanism with calibrated noise."""


@dataclass(frozen=True)
class MechanismSpec:
    """The properties of one value of ``privacy.mechanism``.

    Attributes
    ----------
    needed, optional : tuple of str
        Keys of `privacy` that must be set, and keys that may be set. A key that stands in the
        table, but not in this entry, is rejected.
    guaranteed : bool
        Whether noise is calibrated to ``privacy.epsilon``, or set by ``privacy.noise_multiplier``.
    nominal : bool
        Whether ``privacy.epsilon`` is a published epsilon that does not hold. Reports then show
        the epsilon that does hold beside it, and warn of the difference.
    noise_at : str or None
        Where noise is added: ``client`` (on the device, to each update), ``batches`` (on the
        device, to the gradients of each batch), ``server`` (once, to the sum of the updates of a
        cohort), ``shares`` (on the device, a share of the noise of the sum), or None (nowhere).
    correlated : bool
        Whether the noise of a round depends on earlier noise (matrix factorisation). Clients then
        take turns, and ``privacy.bands`` says after how many rounds it is a client's turn again.
    units : tuple of str
        Allowed values of ``privacy.unit``.
    relations : mapping of str to tuple of str
        Allowed values of ``privacy.relation`` for each allowed value of ``privacy.vantage``.
    aggregations : tuple of str
        Allowed values of ``privacy.aggregation``; empty if there is no choice.
    selects_layers : bool
        Whether ``privacy.layers`` may keep some layers on the device.
    floating_point : bool
        Whether reports warn that the noise is added in floating point.
    epsilons : tuple of int
        Values of ``privacy.epsilon`` that are options of their own, such as ``privacy=udp_25``.
    """

    needed: tuple[str, ...]
    optional: tuple[str, ...]
    guaranteed: bool
    nominal: bool
    noise_at: str | None
    correlated: bool
    units: tuple[str, ...]
    relations: Mapping[str, tuple[str, ...]]
    selects_layers: bool
    floating_point: bool
    epsilons: tuple[int, ...]
    aggregations: tuple[str, ...] = ()

    @property
    def accounted(self) -> bool:
        """Whether reports state an epsilon that holds."""
        return self.guaranteed or self.nominal


_NONE = MechanismSpec(
    needed=(),
    optional=("aggregation", "dropout", "kept", "refresh"),
    guaranteed=False,
    nominal=False,
    noise_at=None,
    correlated=False,
    units=UNITS,
    relations=dict.fromkeys(VANTAGES, RELATIONS),
    selects_layers=False,
    floating_point=False,
    epsilons=(),
    aggregations=("plain", "ckks"),
)
_LOCAL = MechanismSpec(
    needed=("clipping_norm",),
    optional=CALIBRATED,
    guaranteed=True,
    nominal=False,
    noise_at="client",
    correlated=False,
    units=("client", "speaker"),
    relations={"attributed": ("zero_out", "replace_one")},
    selects_layers=True,
    floating_point=False,
    epsilons=(8, 16),
)
_CENTRAL = MechanismSpec(
    needed=("clipping_norm", "accountant"),
    optional=CALIBRATED,
    guaranteed=True,
    nominal=False,
    noise_at="server",
    correlated=False,
    units=("client", "speaker"),
    relations={"sum": ("zero_out", "replace_one"), "outsider": ("add_remove",)},
    selects_layers=True,
    floating_point=False,
    epsilons=(1, 2, 4, 8),
)
MECHANISMS: Mapping[str, MechanismSpec] = {
    "none": _NONE,
    "udp": MechanismSpec(
        needed=("epsilon", "nominal_delta", "clipping_norm"),
        optional=("stop_at_epsilon",),
        guaranteed=False,
        nominal=True,
        noise_at="client",
        correlated=False,
        units=("client", "speaker"),
        relations={"attributed": ("replace_one",)},
        selects_layers=False,
        floating_point=True,
        epsilons=(50, 25, 10, 5),
    ),
    "local": _LOCAL,
    "layered": replace(_LOCAL, needed=("clipping_norm", "layer_shares"), epsilons=(8,)),
    "central": _CENTRAL,
    "central_adaptive": replace(
        _CENTRAL,
        needed=("clipping_norm", "accountant", "target_quantile", "clip_learning_rate"),
        optional=(*CALIBRATED, "count_noise"),
    ),
    "central_matrix": replace(
        _CENTRAL, optional=(*CALIBRATED, "bands"), correlated=True, epsilons=(8,)
    ),
    "distributed": replace(
        _CENTRAL,
        needed=("clipping_norm", "aggregation", "dropout"),
        noise_at="shares",
        relations={"sum": ("zero_out", "replace_one")},
        epsilons=(8,),
        aggregations=("secure", "plain"),
    ),
    "dp_sgd": MechanismSpec(
        needed=("clipping_norm", "accountant"),
        optional=CALIBRATED,
        guaranteed=True,
        nominal=False,
        noise_at="batches",
        correlated=False,
        units=("utterance",),
        relations={"attributed": ("add_remove",)},
        selects_layers=False,
        floating_point=True,
        epsilons=(8,),
    ),
    "custom": replace(
        _NONE,
        needed=("custom",),
        optional=(),
        noise_at="client",
        units=("client", "speaker"),
        relations={"attributed": RELATIONS},
        aggregations=(),
    ),
}
GUARANTEED = tuple(name for name, spec in MECHANISMS.items() if spec.guaranteed)
KEYS = tuple(dict.fromkeys(k for s in MECHANISMS.values() for k in (*s.needed, *s.optional)))
"""Keys of `privacy` that are None unless the mechanism applies them."""
