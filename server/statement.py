"""The privacy statement: what is protected, from whom, and what is not."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from server.plan import PrivacyPlan
from server.privacy_config import ACCOUNTANTS

VANTAGES = {
    "attributed": "the server, which sees every update with its sender",
    "sum": (
        "whoever sees the noised sums of all rounds and knows who took part; not the server, "
        "which sees each update before it adds the noise"
    ),
    "outsider": (
        "whoever sees the models of all rounds but not who took part; not the server, which sees "
        "each update before it adds the noise"
    ),
}
NO_MECHANISM = (
    "No privacy mechanism: updates, example counts and training losses leave the device in the "
    "clear, and nothing is guaranteed."
)
CUSTOM = (
    "The mechanism is a custom one, which nothing is accounted for: what it protects is what the "
    "attacks below fail to find, and no more is known."
)
CLIPPED_GRADIENTS = (
    "Clipping gradients does not bound an Adam update: its first step is about learning rate "
    "times the sign of the gradient. Epsilon above uses the bound that does hold."
)
NO_AMPLIFICATION = (
    "The server sees every update with its sender, so drawing a cohort amplifies nothing."
)
TRUSTED_SERVER = (
    "The server is trusted: it receives clean updates. The attacks of this report read them as "
    "the server does, so what they find lies outside the guarantee. So do the norms, clip "
    "fractions and cohorts that it logs."
)
SECRET_COHORTS = (
    "Epsilon relies on nobody knowing who took part in a round; against who does, it is the "
    "epsilon with known participation."
)
UTTERANCES = (
    "One utterance is protected, not the speaker: what all of a speaker's utterances have in "
    "common, such as gender, is not hidden by it. The number of utterances is taken as public."
)
SEEDED_NOISE = (
    "Noise is drawn from a seeded generator, so that research can be repeated: whoever knows the "
    "seed can subtract it. For deployment ask for privacy.secure_noise=true."
)
FLOATING_POINT = (
    "Noise is added in floating point, which leaks a little more than the formulas say "
    "(Mironov, 2012)."
)
EVALUATION = (
    "The simulation chooses the best round on clients' held-out utterances, and corpus-wide "
    "normalisation pools their feature statistics: both are outside the guarantee."
)
NETWORKED = (
    "Over the network each node tells once how many utterances its speakers have, and every round "
    "how the model classifies those it does not train on: both are outside the guarantee."
)
METRICS_SHARED = (
    "Example counts and losses leave the device outside the guarantee (privacy.share_metrics)."
)
NORMALISED = (
    "Features are normalised with statistics of all of a speaker's training utterances, which "
    "the guarantee of a {unit} takes as fixed; normalisation=none does without."
)


@dataclass(frozen=True)
class Spent:
    """What a run has spent.

    Attributes
    ----------
    epsilon, epsilon_known : float or None
        By the unit that spent most, against the plan's vantage and against whoever knows who
        took part; None as in `Outcome`.
    releases : int
        Updates that the server saw of that unit.
    """

    epsilon: float | None
    epsilon_known: float | None
    releases: int


def privacy_statement(
    plan: PrivacyPlan,
    spent: Spent,
    num_examples: npt.NDArray[np.int64],
    shards: int,
    normalisation: str,
    networked: bool = False,
) -> dict[str, Any]:
    """Say what is guaranteed, as ``results.json`` has it; what is not is None.

    Parameters
    ----------
    num_examples : ndarray of int64, shape (N,)
        Training utterances of each client.
    shards : int
        Clients that one speaker holds.
    normalisation : str
        Whose statistics features were normalised with.
    networked : bool
        Whether clients are on machines of their own.
    """
    c, guaranteed = plan.config, spent.epsilon is not None
    return {
        "mechanism": c.title,
        "unit": c.unit if guaranteed else None,
        "relation": c.relation if guaranteed else None,
        "vantage": VANTAGES[c.vantage] if guaranteed else VANTAGES["attributed"],
        "participation": _participation(plan) if guaranteed else None,
        "sampling": plan.sampling,
        "delta": c.delta if guaranteed else None,
        "epsilon": spent.epsilon,
        "epsilon_known_participation": spent.epsilon_known,
        "nominal_epsilon": c.epsilon if c.mechanism == "udp" else None,
        "nominal_delta": c.nominal_delta,
        "accountant": _accountant(plan) if guaranteed else None,
        "noise_multiplier": plan.noise_multiplier,
        "clipping_norm": c.clipping_norm,
        "noise": None if c.mechanism == "none" else "system" if c.secure_noise else "seeded",
        "releases_max": spent.releases,
        "leaves_device": ["update", *plan.client_mechanism().metrics],
        "warnings": _warnings(plan, num_examples, shards, normalisation, networked),
    }


def _participation(plan: PrivacyPlan) -> str:
    return "secret" if plan.config.vantage == "outsider" else "known"


def _accountant(plan: PrivacyPlan) -> str:
    exact = all(releases.rate == 1 for releases in plan.exposures)
    return "exact Gaussian composition" if exact else ACCOUNTANTS[plan.config.accountant or ""]


def _warnings(
    plan: PrivacyPlan,
    num_examples: npt.NDArray[np.int64],
    shards: int,
    normalisation: str,
    networked: bool,
) -> list[str]:
    c = plan.config
    if c.mechanism == "none":
        return [NO_MECHANISM]
    if c.mechanism == "custom":
        return [CUSTOM]
    said = [
        *(_udp_warnings(plan, num_examples) if c.mechanism == "udp" else []),
        *([TRUSTED_SERVER] if plan.central else []),
        *([SECRET_COHORTS] if c.vantage == "outsider" else []),
        *([UTTERANCES] if c.unit == "utterance" else []),
        *([NO_AMPLIFICATION] if c.vantage == "attributed" and c.unit != "utterance" else []),
        *([METRICS_SHARED] if c.share_metrics else []),
        NETWORKED if networked else EVALUATION,
        *([] if c.secure_noise else [SEEDED_NOISE]),
        FLOATING_POINT,
    ]
    if shards > 1 and c.unit == "client":
        said.append(
            f"The unit is a client, and one speaker holds {shards}: the speaker's epsilon is "
            "larger. Ask for privacy.unit=speaker to see it."
        )
    tied = c.unit == "utterance" or (c.unit == "client" and shards > 1)
    if normalisation == "speaker" and tied:
        said.append(NORMALISED.format(unit=c.unit))
    return said


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
