"""The frozen privacy plan of a run: what is applied, and what may be claimed for it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from fedser.client.privacy.mechanisms import (
    DPSGD,
    CentralDP,
    LocalDP,
    Mechanism,
    NoMechanism,
    UserLevelDP,
    build_mechanism,
)
from fedser.common.errors import UserError
from fedser.conf.privacy_keys import CENTRAL, GUARANTEED, PrivacyConfig
from fedser.server.privacy.composition import Releases, calibrated_noise, running_epsilon

COUNT_SENSITIVITY = 0.5
"""By which a client moves the sum of b - 1/2, where b is 1 if it was not clipped, else 0."""


@dataclass(frozen=True)
class PrivacyPlan:
    """A checked privacy configuration, coupled to the rounds and sampling it applies to.

    Noise, sensitivity and what is accounted for all derive from it, so they cannot drift apart.

    Attributes
    ----------
    sampling_rate : float
        Probability that a client takes part in a round (central), else the share that does.
    num_rounds : int
        Rounds planned.
    num_clients : int
        Clients that cohorts are drawn from.
    exposures : tuple of Releases
        Releases of the units that may be worst off, over all federations that count together;
        known beforehand, since cohorts are drawn at random and not from data.
    shared : mapping of str to int
        Parameters that leave the device, with their numbers of coordinates.
    """

    config: PrivacyConfig
    sampling_rate: float
    num_rounds: int
    num_clients: int = 1
    exposures: tuple[Releases, ...] = (Releases(1),)
    shared: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be applied or guaranteed; raises UserError naming the key."""
        self.config.check()
        if self.config.custom is not None:
            try:
                build_mechanism(self.config.custom)
            except ValueError as error:
                raise UserError(f"privacy.custom: {error}") from error
        shares = self.config.layer_shares
        if shares is not None and len(shares) != len(self._layers):
            raise UserError(
                f"privacy.layer_shares names {len(shares)} layers, {len(self._layers)} are shared"
            )

    @property
    def central(self) -> bool:
        """Whether the server adds the noise, once to the sum of a Poisson cohort."""
        return self.config.mechanism in CENTRAL

    @property
    def sampling(self) -> str:
        """How cohorts are drawn: ``poisson`` or ``fixed`` in size."""
        return "poisson" if self.central else "fixed"

    @property
    def expected_cohort(self) -> float:
        """The public q N that central sums are divided by."""
        return self.sampling_rate * self.num_clients

    @cached_property
    def noise_multiplier(self) -> float | None:
        """Standard deviation over sensitivity; None where the mechanism has none of its own.

        For adaptive clipping, of the sum and the count together.
        """
        c = self.config
        if c.mechanism not in GUARANTEED or c.noise_multiplier is not None:
            return c.noise_multiplier
        assert c.epsilon is not None  # checked
        try:
            return calibrated_noise(self.exposures, c.epsilon, c.delta, c.accountant or "")
        except ValueError as error:
            raise UserError(f"privacy.epsilon={c.epsilon:g}: {error}, ask for more") from None

    def epsilon(self, releases: Releases) -> float:
        """Epsilon that releases spend under the noise of this plan; infinite without noise."""
        if self.noise_multiplier is None:
            return math.inf
        c = self.config
        return running_epsilon(releases, self.noise_multiplier, c.delta, c.accountant or "pld")

    @property
    def steps_apart(self) -> int:
        """How many clipping norms lie between neighbouring data sets, a client."""
        return 2 if self.config.relation == "replace_one" else 1

    @property
    def count_noise(self) -> float | None:
        """Standard deviation on the count of unclipped clients (adaptive clipping)."""
        if self.config.mechanism != "central_adaptive":
            return None
        assert self.noise_multiplier is not None
        least = 2 * COUNT_SENSITIVITY * self.steps_apart * self.noise_multiplier
        return self.config.count_noise or max(self.expected_cohort / 20, least)

    def sum_stddev(self, clipping_norm: float) -> float:
        """Noise on each coordinate of a sum of updates clipped to `clipping_norm` (central).

        With a noised count beside it the sum gets a little more, so that both together cost
        what the noise multiplier says (Andrew et al., 2021, theorem 1).
        """
        assert self.noise_multiplier is not None
        multiplier = self.noise_multiplier
        if self.count_noise is not None:
            of_count = self.count_noise / (COUNT_SENSITIVITY * self.steps_apart)
            if of_count <= multiplier:
                raise UserError(
                    f"privacy.count_noise={self.count_noise:g} alone spends the whole budget: "
                    f"more than {self.count_noise * multiplier / of_count:.3g} is needed"
                )
            multiplier = (multiplier**-2 - of_count**-2) ** -0.5
        return multiplier * self.steps_apart * clipping_norm

    def client_mechanism(self) -> Mechanism:
        """Return what each client applies."""
        c = self.config
        if c.mechanism == "none":
            return NoMechanism()
        if c.custom is not None:
            return build_mechanism(c.custom)
        assert c.clipping_norm is not None  # checked
        if c.mechanism == "udp":
            assert c.epsilon is not None and c.nominal_delta is not None
            return UserLevelDP(
                gradient_clip=c.clipping_norm,
                sampling_rate=self.sampling_rate,
                num_rounds=self.num_rounds,
                epsilon=c.epsilon,
                delta=c.nominal_delta,
            )
        if self.central:
            return CentralDP(c.share_metrics, list(self.shared))
        assert self.noise_multiplier is not None
        if c.mechanism == "dp_sgd":
            return DPSGD(c.share_metrics, c.clipping_norm, self.noise_multiplier)
        return self._local(c.clipping_norm, self.noise_multiplier)

    def _local(self, clipping_norm: float, noise_multiplier: float) -> LocalDP:
        """Clip and noise the whole update, or each layer by itself with its budget.

        A layer's clip grows with the root of its size, as Adam's updates do. Layers with shares
        b of the budget get noise multipliers z / sqrt(b), and Gaussian releases compose to
        ``sum b / z^2 = 1 / z^2``.
        """
        whole = list(self.shared)
        groups, budget = [whole], [1.0]
        if shares := self.config.layer_shares:
            groups, budget = self._layers, [share / sum(shares) for share in shares]
        sizes = [sum(self.shared[name] for name in group) for group in groups]
        norms = [clipping_norm * math.sqrt(size / sum(sizes)) for size in sizes]
        noise = [
            noise_multiplier / math.sqrt(share) * self.steps_apart * norm
            for share, norm in zip(budget, norms, strict=True)
        ]
        return LocalDP(self.config.share_metrics, groups, norms, noise)

    @property
    def _layers(self) -> list[list[str]]:
        """Names of the shared parameters, a list a layer."""
        layers: dict[str, list[str]] = {}
        for name in self.shared:
            layers.setdefault(name.rsplit(".", 1)[0], []).append(name)
        return list(layers.values())
