"""The privacy statement: what is protected, from whom, and what is not."""

from typing import Any

import numpy as np
import numpy.typing as npt

from server.plan import PrivacyPlan

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
EVALUATION = (
    "The simulation chooses the best round on clients' held-out utterances, and corpus-wide "
    "normalisation pools their feature statistics: both are outside the guarantee."
)
METRICS_SHARED = (
    "Example counts and losses leave the device outside the guarantee (privacy.share_metrics)."
)


def privacy_statement(
    plan: PrivacyPlan,
    epsilon: float | None,
    releases: int,
    num_examples: npt.NDArray[np.int64],
    shards: int,
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
    c, guaranteed = plan.config, epsilon is not None
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
        "warnings": _warnings(plan, num_examples, shards),
    }


def _warnings(plan: PrivacyPlan, num_examples: npt.NDArray[np.int64], shards: int) -> list[str]:
    if plan.config.mechanism == "none":
        return [NO_MECHANISM]
    warnings = [NO_AMPLIFICATION, EVALUATION, SEEDED_NOISE]
    if plan.config.mechanism == "udp":
        warnings = [*_udp_warnings(plan, num_examples), *warnings]
    elif plan.config.share_metrics:
        warnings.append(METRICS_SHARED)
    if shards > 1 and plan.config.unit == "client":
        warnings.append(
            f"The unit is a client, and one speaker holds {shards}: the speaker's epsilon is "
            "larger. Ask for privacy.unit=speaker to see it."
        )
    return warnings


def _udp_warnings(plan: PrivacyPlan, num_examples: npt.NDArray[np.int64]) -> list[str]:
    mechanism = plan.client_mechanism()
    largest, smallest = (mechanism.stddev(int(n)) for n in (num_examples.max(), num_examples.min()))
    nominal = (
        f"The nominal epsilon {plan.config.epsilon:g} at delta {plan.config.nominal_delta:g} "
        "does not hold: the published composition drops a term that dominates at this delta, "
        "and a delta of 0.5 allows a total breach every other time."
    )
    counts = (
        f"Noise depends on how much a client holds: standard deviation {largest:.2g} for the "
        f"largest client, {smallest:.2g} for the smallest. The number of utterances itself "
        "leaves the device in the clear, and epsilon takes it as public."
    )
    return [nominal, CLIPPED_GRADIENTS, counts]
