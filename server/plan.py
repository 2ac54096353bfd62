"""The frozen privacy plan of a run: what is applied, and what may be claimed for it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from client.errors import UserError
from client.privacy import NoMechanism, UserLevelDP


@dataclass
class PrivacyConfig:
    """Keys of ``conf/privacy``.

    Attributes
    ----------
    mechanism : str
        ``none`` or ``udp``.
    epsilon : float or None
        Nominal epsilon of UDP.
    nominal_delta : float or None
        Delta the published formula is evaluated at, 0.5.
    clipping_norm : float or None
        UDP's bound on the norm of each batch gradient.
    delta : float
        Delta at which the privacy truly spent is reported.
    """

    mechanism: str = "none"
    epsilon: float | None = None
    nominal_delta: float | None = None
    clipping_norm: float | None = None
    delta: float = 1e-5


@dataclass(frozen=True)
class PrivacyPlan:
    """A checked privacy configuration, coupled to the rounds and sampling it applies to.

    Attributes
    ----------
    sampling_rate : float
        Share of clients in a round (fixed-size cohorts: no amplification may be claimed).
    num_rounds : int
        Rounds planned.
    """

    config: PrivacyConfig
    sampling_rate: float
    num_rounds: int

    def __post_init__(self) -> None:
        """Refuse what cannot be applied.

        Raises
        ------
        UserError
            Naming the key.
        """
        checks = {"udp": self._check_udp, "none": self._check_none}
        if self.config.mechanism not in checks:
            raise UserError(
                f"privacy.mechanism={self.config.mechanism} is not one of {', '.join(checks)}"
            )
        if not 0 < self.config.delta < 1:
            raise UserError(f"privacy.delta={self.config.delta} must lie between 0 and 1")
        checks[self.config.mechanism]()

    def _check_none(self) -> None:
        for key in ("epsilon", "clipping_norm"):
            if getattr(self.config, key) is not None:
                raise UserError(
                    f"privacy.{key} is set, but privacy=none applies no mechanism: "
                    "choose privacy=udp"
                )

    def _check_udp(self) -> None:
        for key in ("epsilon", "clipping_norm"):
            value = getattr(self.config, key)
            if value is None or not (math.isfinite(value) and value > 0):
                raise UserError(f"privacy.{key}={value} must be a finite number above 0")
        delta = self.config.nominal_delta
        if delta is None or not 0 < delta < 1:
            raise UserError(f"privacy.nominal_delta={delta} must lie between 0 and 1")

    def client_mechanism(self) -> NoMechanism | UserLevelDP:
        """Return what each client applies."""
        c = self.config
        if c.mechanism == "none":
            return NoMechanism()
        assert c.clipping_norm is not None and c.epsilon is not None
        assert c.nominal_delta is not None  # all three checked above
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
            Spent by the client that spent most.
        releases : int
            Updates that the server saw of that client.
        num_examples : ndarray of int64, shape (N,)
            Training utterances of each client.
        shards : int
            Clients that one speaker holds.
        """
        guaranteed = epsilon is not None
        return {
            "mechanism": self.config.mechanism,
            "unit": "client" if guaranteed else None,
            "relation": "replace_one" if guaranteed else None,
            "vantage": "the server sees every update with its sender",
            "delta": self.config.delta if guaranteed else None,
            "epsilon": epsilon,
            "nominal_epsilon": self.config.epsilon,
            "nominal_delta": self.config.nominal_delta,
            "accountant": "exact Gaussian composition" if guaranteed else None,
            "releases_max": releases,
            "warnings": self._warnings(num_examples, shards),
        }

    def _warnings(self, num_examples: npt.NDArray[np.int64], shards: int) -> list[str]:
        if self.config.mechanism == "none":
            return [
                "No privacy mechanism: updates, example counts and training losses leave the "
                "device in the clear, and nothing is guaranteed."
            ]
        mechanism = self.client_mechanism()
        weakest, strongest = (
            mechanism.stddev(int(n)) for n in (num_examples.max(), num_examples.min())
        )
        warnings = [
            f"The nominal epsilon {self.config.epsilon:g} at delta {self.config.nominal_delta:g} "
            "does not hold: the published composition drops a term that dominates at this delta, "
            "and a delta of 0.5 allows a total breach every other time.",
            "Clipping gradients does not bound an Adam update: its first step is about "
            "learning rate times the sign of the gradient. Epsilon above uses the bound that "
            "does hold.",
            "The server sees every update with its sender, so drawing a cohort amplifies nothing.",
            f"Noise depends on how much a client holds: standard deviation {weakest:.2g} for the "
            f"largest client, {strongest:.2g} for the smallest. The number of utterances itself "
            "leaves the device in the clear.",
        ]
        if shards > 1:
            warnings.append(
                f"The unit is a client, and one speaker holds {shards}: the speaker's epsilon is "
                "larger."
            )
        return warnings
