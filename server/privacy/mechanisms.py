"""The server's table of mechanisms: what clients apply, and how a release is accounted for."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from fedser.client.privacy.base import Mechanism, NoMechanism
from fedser.client.privacy.central import CentralDP
from fedser.client.privacy.distributed import DistributedDP
from fedser.client.privacy.dp_sgd import DPSGD
from fedser.client.privacy.local import LocalDP
from fedser.client.privacy.mechanisms import build_mechanism
from fedser.client.privacy.user_level import UserLevelDP
from fedser.common.errors import UserError
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.conf.training_keys import TrainingConfig
from fedser.server.privacy.distributed_sum import DistributedSum
from fedser.server.privacy.udp import udp_mu


class Plan(Protocol):
    """The attributes of a `PrivacyPlan` that the functions of this table read."""

    @property
    def config(self) -> PrivacyConfig: ...  # noqa: D102
    @property
    def sampling_rate(self) -> float: ...  # noqa: D102
    @property
    def num_rounds(self) -> int: ...  # noqa: D102
    @property
    def shared(self) -> Mapping[str, int]: ...  # noqa: D102
    @property
    def noise_multiplier(self) -> float | None: ...  # noqa: D102
    @property
    def steps_apart(self) -> int: ...  # noqa: D102
    @property
    def distributed_sum(self) -> DistributedSum: ...  # noqa: D102


@dataclass(frozen=True)
class MechanismEntry:
    """The functions of one mechanism.

    Attributes
    ----------
    build : callable
        Returns what each client applies under a plan.
    release_mu : callable or None
        Returns sensitivity over noise of one release, from the plan, the client's number of
        utterances, the number of shared weights, the algorithm and the training settings. None if
        all clients have the plan's noise multiplier: releases then count as one sensitivity each.
    """

    build: Callable[[Plan], Mechanism]
    release_mu: Callable[[Plan, int, int, str, TrainingConfig], float] | None = None


def _none(plan: Plan) -> NoMechanism:
    return NoMechanism()


def _udp(plan: Plan) -> UserLevelDP:
    c = plan.config
    assert c.clipping_norm is not None and c.epsilon is not None  # checked
    assert c.nominal_delta is not None
    return UserLevelDP(
        gradient_clip=c.clipping_norm,
        sampling_rate=plan.sampling_rate,
        num_rounds=plan.num_rounds,
        epsilon=c.epsilon,
        delta=c.nominal_delta,
    )


def _udp_mu(
    plan: Plan, num_examples: int, dimension: int, algorithm: str, training: TrainingConfig
) -> float:
    return udp_mu(_udp(plan), num_examples, dimension, algorithm, training)


def _local(plan: Plan) -> LocalDP:
    """Clip and noise the whole update, or each layer separately with its share of the budget.

    A layer's clip grows with the root of its size, as Adam's updates do. A layer with share b of
    the budget gets noise multiplier z / sqrt(b); Gaussian releases compose to
    ``sum b / z^2 = 1 / z^2``.
    """
    c = plan.config
    assert c.clipping_norm is not None and plan.noise_multiplier is not None  # checked
    groups, budget = [list(plan.shared)], [1.0]
    if shares := c.layer_shares:
        groups, budget = names_by_layer(plan.shared), [share / sum(shares) for share in shares]
    sizes = [sum(plan.shared[name] for name in group) for group in groups]
    norms = [c.clipping_norm * math.sqrt(size / sum(sizes)) for size in sizes]
    noise = [
        plan.noise_multiplier / math.sqrt(share) * plan.steps_apart * norm
        for share, norm in zip(budget, norms, strict=True)
    ]
    return LocalDP(c.share_metrics, groups, norms, noise)


def _central(plan: Plan) -> CentralDP:
    return CentralDP(plan.config.share_metrics, list(plan.shared))


def _distributed(plan: Plan) -> DistributedDP:
    c, sums = plan.config, plan.distributed_sum
    assert c.clipping_norm is not None  # checked
    return DistributedDP(
        share_metrics=c.share_metrics,
        shared=list(plan.shared),
        clipping_norm=c.clipping_norm,
        step=sums.step,
        noise=sums.share_stddev,
        cohort=sums.cohort,
        min_clients=sums.min_clients,
        masked=c.aggregation == "secure",
    )


def _dp_sgd(plan: Plan) -> DPSGD:
    c = plan.config
    assert c.clipping_norm is not None and plan.noise_multiplier is not None  # checked
    return DPSGD(c.share_metrics, c.clipping_norm, plan.noise_multiplier)


def _custom(plan: Plan) -> Mechanism:
    """Build the user's class; raises UserError if there is none or if it has other fields."""
    assert plan.config.custom is not None  # checked
    try:
        return build_mechanism(plan.config.custom, custom=True)
    except ValueError as error:
        raise UserError(f"privacy.custom: {error}") from error


ENTRIES: Mapping[str, MechanismEntry] = {
    "none": MechanismEntry(_none),
    "udp": MechanismEntry(_udp, _udp_mu),
    "local": MechanismEntry(_local),
    "layered": MechanismEntry(_local),
    "central": MechanismEntry(_central),
    "central_adaptive": MechanismEntry(_central),
    "central_matrix": MechanismEntry(_central),
    "distributed": MechanismEntry(_distributed),
    "dp_sgd": MechanismEntry(_dp_sgd),
    "custom": MechanismEntry(_custom),
}
"""By the names of `conf.mechanisms.MECHANISMS`."""


def names_by_layer(shared: Mapping[str, int]) -> list[list[str]]:
    """Return the names of the shared parameters, one list per layer."""
    layers: dict[str, list[str]] = {}
    for name in shared:
        layers.setdefault(name.rsplit(".", 1)[0], []).append(name)
    return list(layers.values())
