"""The frozen privacy plan of a run, from which noise and accounting both derive."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from fedser.client.encryption.ckks import MAX_CLIENTS, tenseal
from fedser.client.privacy.base import Mechanism
from fedser.client.privacy.local import LocalDP
from fedser.common.errors import UserError
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.server.privacy.composition import Releases, calibrated_noise, running_epsilon
from fedser.server.privacy.distributed_sum import DistributedSum, least_clients
from fedser.server.privacy.matrix_factorization import (
    WHITE,
    Coefficients,
    num_bands,
    optimal_coefficients,
    prefix_stddevs,
    round_stddevs,
    turn_rate,
)
from fedser.server.privacy.mechanisms import ENTRIES, names_by_layer

COUNT_SENSITIVITY = 0.5
"""Sensitivity to one client of the sum of b - 1/2; b is 1 for an unclipped update, otherwise 0."""


@dataclass(frozen=True)
class PrivacyPlan:
    """A checked privacy configuration, coupled to the rounds and the sampling of the run.

    Noise, sensitivity and accounting all derive from it, so that they always agree.

    Attributes
    ----------
    sampling_rate : float
        Probability that a client takes part in a round (central), otherwise the share of the
        clients in a round.
    num_rounds : int
        Number of planned rounds.
    num_clients : int
        Number of clients that cohorts are drawn from.
    exposures : tuple of Releases
        Planned releases of the units that may spend most, over all federations that count
        together. They are known before training, because cohorts do not depend on data.
    shared : mapping of str to int
        Number of coordinates of each parameter that leaves the device.
    """

    config: PrivacyConfig
    sampling_rate: float
    num_rounds: int
    num_clients: int = 1
    exposures: tuple[Releases, ...] = (Releases(1),)
    shared: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reject a plan that cannot be applied or guaranteed; raise UserError naming the key."""
        self.config.check()
        if self.config.custom is not None:
            self.client_mechanism()  # rejects a class that cannot be built
        shares, layers = self.config.layer_shares, names_by_layer(self.shared)
        if shares is not None and len(shares) != len(layers):
            raise UserError(
                f"privacy.layer_shares names {len(shares)} layers, {len(layers)} are shared"
            )

    @property
    def central(self) -> bool:
        """Whether the server adds the noise, once to the sum of a cohort."""
        return self.config.central

    @property
    def sampling(self) -> str:
        """The sampling of cohorts.

        ``poisson``, ``turns`` (Poisson within the group whose turn it is), or ``fixed`` for cohorts
        of fixed size.
        """
        if not self.central:
            return "fixed"
        return "turns" if self.bands > 1 else "poisson"

    @cached_property
    def bands(self) -> int:
        """Rounds after which it is a client's turn again; 1 if every round may draw it."""
        return num_bands(self.config, self.sampling_rate, self.num_rounds)

    @property
    def turn_rate(self) -> float:
        """Probability that a client takes part in a round of its own turn."""
        return turn_rate(self.bands, self.sampling_rate)

    @property
    def coefficients(self) -> Coefficients:
        """Coefficients of the noise over rounds."""
        return optimal_coefficients(self.bands, self.num_rounds) if self.bands > 1 else WHITE

    @property
    def expected_cohort(self) -> float:
        """The public expected cohort q N; central sums are divided by it."""
        return self.sampling_rate * self.num_clients

    @property
    def distributed_sum(self) -> DistributedSum:
        """The integers and the noise of a round's sum, for distributed noise."""
        c = self.config
        assert c.clipping_norm is not None and c.dropout is not None  # checked
        return DistributedSum.of(
            self.cohort,
            c.dropout,
            c.clipping_norm,
            self.sum_stddev(c.clipping_norm),
            sum(self.shared.values()),
        )

    @property
    def cohort(self) -> int:
        """Number of clients in a cohort of fixed size."""
        return cohort_size(self.num_clients, self.sampling_rate)

    @property
    def min_clients(self) -> int:
        """Fewest clients of a sum that may be opened, if ``privacy.dropout`` applies."""
        assert self.config.dropout is not None  # checked
        return least_clients(self.cohort, self.config.dropout)

    def check_cohort(self) -> None:
        """Reject cohorts that cannot be summed as planned; raise UserError."""
        if self.config.spec.noise_at == "shares":
            self.distributed_sum.check_cohort(self.config.aggregation == "secure")
        if self.config.encrypted:
            tenseal()
            if not 2 <= self.cohort <= MAX_CLIENTS:
                raise UserError(
                    f"privacy.aggregation=ckks sums the updates of 2 to {MAX_CLIENTS} clients, and "
                    f"a cohort has {self.cohort}: change cohort_fraction"
                )

    def with_cohort(self, clients: int) -> "PrivacyPlan":
        """Return the plan of sums of exactly these clients, without masks and with the same noise.

        The audit looks at them.
        """
        config = replace(self.config, aggregation="plain", dropout=0.0)
        return replace(self, config=config, sampling_rate=1.0, num_clients=clients)

    @cached_property
    def noise_multiplier(self) -> float | None:
        """Standard deviation over sensitivity; None if the mechanism has no noise multiplier.

        For adaptive clipping it is that of the sum and the count together.
        """
        c = self.config
        if not c.spec.guaranteed or c.noise_multiplier is not None:
            return c.noise_multiplier
        assert c.epsilon is not None  # checked
        try:
            return calibrated_noise(self.exposures, c.epsilon, c.delta, c.accountant or "")
        except ValueError as error:
            raise UserError(f"privacy.epsilon={c.epsilon:g}: {error}, increase it") from None

    def with_noise(
        self, *, epsilon: float | None = None, noise_multiplier: float | None = None
    ) -> "PrivacyPlan":
        """Return the plan with other noise; clients keep their turns, which noise may decide."""
        config = replace(self.config, epsilon=epsilon, noise_multiplier=noise_multiplier)
        if config.spec.correlated:
            config = replace(config, bands=self.bands)
        return replace(self, config=config)

    def epsilon(self, releases: Releases) -> float:
        """Return the epsilon that releases spend under this plan; infinite without a multiplier."""
        if self.noise_multiplier is None:
            return math.inf
        c = self.config
        return running_epsilon(releases, self.noise_multiplier, c.delta, c.accountant or "pld")

    @property
    def steps_apart(self) -> int:
        """Clipping norms by which one client's update differs between neighbouring data sets."""
        return 2 if self.config.relation == "replace_one" else 1

    @property
    def count_noise(self) -> float | None:
        """Standard deviation of the noise on the count of unclipped clients; None without one."""
        if self.config.target_quantile is None:
            return None
        assert self.noise_multiplier is not None
        least = 2 * COUNT_SENSITIVITY * self.steps_apart * self.noise_multiplier
        return self.config.count_noise or max(self.expected_cohort / 20, least)

    def sum_stddev(self, clipping_norm: float) -> float:
        """Return the noise on each coordinate of a sum of updates clipped to `clipping_norm`.

        If noise is correlated over rounds, this is the noise on what one turn of a client reveals,
        and `round_stddev` is the noise on the sum of a round. If a noised count is released too,
        the sum gets a little more noise, so that both together cost what the noise multiplier says
        (Andrew et al., 2021, theorem 1).

        Raises
        ------
        UserError
            If the noised count alone spends the whole budget.
        """
        assert self.noise_multiplier is not None
        multiplier = self.noise_multiplier
        if self.count_noise is not None:
            count_multiplier = self.count_noise / (COUNT_SENSITIVITY * self.steps_apart)
            if count_multiplier <= multiplier:
                raise UserError(
                    f"privacy.count_noise={self.count_noise:g} alone spends the whole budget: "
                    f"set it above {self.count_noise * multiplier / count_multiplier:.3g}"
                )
            multiplier = (multiplier**-2 - count_multiplier**-2) ** -0.5
        return multiplier * self.steps_apart * clipping_norm

    def cohort_stddev(self, clipping_norm: float) -> float:
        """Return the noise on each coordinate of the sum of a whole cohort.

        Distributed noise is more than `sum_stddev` if all clients answer.
        """
        if self.config.spec.noise_at != "shares":
            return self.sum_stddev(clipping_norm)
        return self.distributed_sum.share_stddev * math.sqrt(self.distributed_sum.cohort)

    def round_stddev(self, clipping_norm: float, number: int) -> float:
        """Return the noise on each coordinate of the sum of a round, counted from 1."""
        growth = float(round_stddevs(self.coefficients, number)[-1]) if self.bands > 1 else 1.0
        return self.sum_stddev(clipping_norm) * growth

    @property
    def model_noise(self) -> float | None:
        """Expected norm of the noise in the last model for a server's step of 1.

        Adaptive clipping may change it. None without a guarantee, and for noise on gradients: its
        norm on an update is unknown.
        """
        c = self.config
        if not c.spec.guaranteed or c.spec.noise_at == "batches":
            return None
        assert c.clipping_norm is not None  # checked
        if c.spec.noise_at == "shares":
            stddev = self.cohort_stddev(c.clipping_norm) / self.distributed_sum.cohort
            return stddev * math.sqrt(sum(self.shared.values()) * self.num_rounds)
        if self.central:
            stddev = self.sum_stddev(c.clipping_norm) * math.sqrt(sum(self.shared.values()))
            growth = float(prefix_stddevs(self.coefficients, self.num_rounds)[-1])
            return stddev * growth / self.expected_cohort
        mechanism = self.client_mechanism()
        assert isinstance(mechanism, LocalDP)
        squared = sum(
            stddev**2 * sum(self.shared[name] for name in group)
            for group, stddev in zip(mechanism.groups, mechanism.noise, strict=True)
        )
        return math.sqrt(squared * self.num_rounds / self.expected_cohort)

    @property
    def noise_to_signal(self) -> float | None:
        """Norm of the noise in the last model over the longest way that training can move it.

        In T rounds clipped updates add up to at most T clipping norms. None as for `model_noise`.
        """
        noise, clipping_norm = self.model_noise, self.config.clipping_norm
        if noise is None or clipping_norm is None:
            return None
        return noise / (clipping_norm * self.num_rounds)

    def client_mechanism(self) -> Mechanism:
        """Return the mechanism that each client applies."""
        return ENTRIES[self.config.mechanism].build(self)


def cohort_size(num_clients: int, rate: float) -> int:
    """Return the number of clients in a cohort of fixed size."""
    return min(num_clients, max(1, round(rate * num_clients)))
