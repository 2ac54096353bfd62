"""The privacy statement: what is protected, from whom, and what is not."""

import math
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from fedser.conf.privacy_keys import ACCOUNTANTS, PrivacyConfig
from fedser.server.privacy.composition import Releases, accountant_used
from fedser.server.privacy.plan import PrivacyPlan

VANTAGES = {
    "attributed": "the server, which sees every update with its sender",
    "sum": (
        "everybody who sees the noised sums of all rounds and knows who took part; not the server, "
        "which sees each update before it adds the noise"
    ),
    "outsider": (
        "everybody who sees the models of all rounds but not who took part; not the server, which "
        "sees each update before it adds the noise"
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
    "Epsilon relies on nobody knowing who took part in a round. Against an observer who knows it, "
    "the two epsilons with known participation hold: zero-out, if the updates of a unit are "
    "replaced by zeros, and replace-one, if they are replaced by any others."
)
ZERO_OUT = (
    "Everybody knows who took part, so the presence of a unit is visible and is not protected. "
    "The relation is zero-out: epsilon protects the content of a unit's updates against zeros in "
    "their place. Against any other content in their place, ask for privacy.relation=replace_one."
)
UTTERANCES = (
    "One utterance is protected, not the speaker: what all of a speaker's utterances have in "
    "common, such as gender, is not hidden by it. The number of utterances is taken as public."
)
REPRODUCIBLE_NOISE = (
    "The noise follows from the seed (privacy.reproducible_noise=true): everybody who knows the "
    "seed can subtract it, and this run protects nobody. Epsilon is the value that the same run "
    "would have with secret noise."
)
FLOATING_POINT = (
    "Noise is added in floating point. An observer who inspects the bits of an update can learn "
    "more than epsilon says (Mironov, 2012): epsilon does not bind a reader of bits."
)
EVALUATION = (
    "The simulation chooses the best round by the clients' validation utterances and evaluates on "
    "the test speakers' utterances, and corpus-wide normalisation pools feature statistics. These "
    "figures are outside the guarantee."
)
FIXED_SPLITS = (
    "Folds, shards, and training and validation parts are taken as fixed and public: epsilon "
    "compares data sets that are split alike."
)
HYPER_PARAMETERS = (
    "Epsilon is that of this run alone. Every other run on the same people adds to it, and so does "
    "a choice of hyper-parameters (clip, noise, rounds, learning rate) by the results of such runs."
)
FOLDS = (
    "Epsilon covers all {federations} federations of this run: a {unit} trains in up to {most} of "
    "them, and all their models and updates count as released."
)
FOLDS_NOT_RELEASED = (
    "Declared: cross-validation only estimates utility (privacy.cross_validation=evaluation). "
    "Epsilon is that of one federation, and holds only if the models and updates of a single fold "
    "are ever shown; the transcript and the figures of the other folds stay with the experimenter."
)
NETWORKED = (
    "Over the network each node tells once which speakers it holds and how many utterances they "
    "have, and in every round how the model classifies its validation and test utterances. The "
    "server chooses the best round by these tables. All of this is outside the guarantee."
)
NETWORK_LEAVES = (
    "roster: versions, corpus, features, speakers and their number of utterances, once",
    "confusion tables of validation and test utterances, in every round",
)
METRICS_SHARED = (
    "Example counts and losses leave the device outside the guarantee (privacy.share_metrics)."
)
NORMALISED = (
    "Features are normalised with statistics of all of a speaker's training utterances, which "
    "the guarantee of a {unit} takes as fixed; normalisation=none does without."
)


SEVERAL_CLIENTS = (
    "The unit is a client, and one speaker holds {shards}: the speaker's epsilon is larger. Ask "
    "for privacy.unit=speaker to see it."
)
LARGEST_DELTA = 0.1
"""Delta times the number of units above which a guarantee is never called strong."""


@dataclass(frozen=True)
class SpentPrivacy:
    """The privacy that a run has spent.

    Attributes
    ----------
    epsilon : float or None
        By the unit that spent most, over all federations that count together, against the plan's
        vantage; None without a finite guarantee.
    epsilon_one_federation : float or None
        The largest epsilon of one federation alone: what a deployment of one model would spend.
    epsilon_known, epsilon_known_replaced : float or None
        Against an observer who knows who took part, zero-out and replace-one; None if `epsilon`
        assumes this observer.
    releases : int
        Most updates of one unit that may have left their devices.
    noise_multiplier : float or None
        Noise over the sensitivity that `exposures` count in.
    exposures : tuple of Releases
        Releases of the units that are worst off.
    """

    epsilon: float | None
    epsilon_one_federation: float | None
    epsilon_known: float | None
    epsilon_known_replaced: float | None
    releases: int
    noise_multiplier: float | None
    exposures: tuple[Releases, ...]


@dataclass(frozen=True)
class ProtectedUnits:
    """The people and data that a statement is about.

    Attributes
    ----------
    num_examples : ndarray of int64, shape (N,)
        Training utterances of each client.
    units : int
        Units of the guarantee in all federations together.
    shards : int
        Clients that one speaker holds.
    normalisation : str
        Statistics that features were normalised with: ``speaker``, ``corpus`` or ``none``.
    networked : bool
        Whether clients are on machines of their own.
    federations, most : int
        Federations of the run, and in how many of them one unit trains at most.
    """

    num_examples: npt.NDArray[np.int64]
    units: int
    shards: int
    normalisation: str
    networked: bool = False
    federations: int = 1
    most: int = 1


def epsilon_text(epsilon: float | None) -> str:
    """Return an epsilon that was spent with three digits, rounded up: 8.0049 is 8.01, not 8."""
    if epsilon is None:
        return "–"
    exact = Decimal(str(epsilon))
    last = 0 if epsilon >= 100 else exact.adjusted() - 2
    shown = float(exact.quantize(Decimal(1).scaleb(last), ROUND_CEILING)) if epsilon else 0.0
    return f"{shown:,.0f}" if epsilon >= 100 else f"{shown:.3g}"


def privacy_statement(
    plan: PrivacyPlan, spent: SpentPrivacy, guarded: ProtectedUnits
) -> dict[str, Any]:
    """Return the guarantee as ``results.json`` has it; an absent guarantee is None."""
    c, guaranteed = plan.config, spent.epsilon is not None
    return {
        "mechanism": c.title,
        "unit": c.unit if guaranteed else None,
        "units": guarded.units if guaranteed else None,
        "relation": c.relation if guaranteed else None,
        "vantage": VANTAGES[c.vantage] if guaranteed else VANTAGES["attributed"],
        "participation": _participation(plan) if guaranteed else None,
        "sampling": plan.sampling,
        "delta": c.delta if guaranteed else None,
        "epsilon": spent.epsilon,
        "epsilon_one_federation": spent.epsilon_one_federation,
        "epsilon_known_participation": spent.epsilon_known,
        "epsilon_known_replace_one": spent.epsilon_known_replaced,
        "nominal_epsilon": c.epsilon if c.spec.nominal else None,
        "nominal_delta": c.nominal_delta,
        "accountant": _accountant(plan, spent) if guaranteed else None,
        "noise_multiplier": plan.noise_multiplier,
        "clipping_norm": c.clipping_norm,
        "noise": _noise(c),
        "cross_validation": c.cross_validation,
        "composition": _composition(spent) if guaranteed else None,
        "releases_max": spent.releases,
        "leaves_device": [
            "update",
            *plan.client_mechanism().metrics,
            *(NETWORK_LEAVES if guarded.networked else ()),
        ],
        "warnings": _warnings(plan, guarded),
    }


def _composition(spent: SpentPrivacy) -> dict[str, Any]:
    releases = [asdict(releases) for releases in spent.exposures]
    return {"noise_multiplier": spent.noise_multiplier, "releases": releases}


def _noise(privacy: PrivacyConfig) -> str | None:
    if privacy.spec.noise_at is None:
        return None
    return "system" if privacy.secret_noise else "seeded"


def _participation(plan: PrivacyPlan) -> str:
    return "secret" if plan.config.vantage == "outsider" else "known"


def _accountant(plan: PrivacyPlan, spent: SpentPrivacy) -> str:
    """Name what epsilon was really composed by: another accountant may have taken the place."""
    assert spent.noise_multiplier is not None
    asked, delta = plan.config.accountant or "", plan.config.delta
    used = {
        accountant_used([(releases, spent.noise_multiplier)], delta, asked)
        for releases in spent.exposures
    }
    names = [name for key, name in ACCOUNTANTS.items() if key in used]
    return " and ".join(names) or "exact Gaussian composition"


def _warnings(plan: PrivacyPlan, guarded: ProtectedUnits) -> list[str]:
    c = plan.config
    if not c.states_epsilon:
        return [NO_MECHANISM if c.custom is None else CUSTOM]
    several = guarded.shards > 1 and c.unit == "client"
    said = [
        (not c.secret_noise, REPRODUCIBLE_NOISE),
        *((True, line) for line in _nominal_warnings(plan, guarded)),
        (c.delta * guarded.units > LARGEST_DELTA, _delta_warning(plan, guarded)),
        (plan.central, TRUSTED_SERVER),
        (c.secret_cohorts, SECRET_COHORTS),
        (c.relation == "zero_out", ZERO_OUT),
        (c.unit == "utterance", UTTERANCES),
        (c.vantage == "attributed" and c.unit != "utterance", NO_AMPLIFICATION),
        (c.share_metrics, METRICS_SHARED),
        (True, _folds_warning(plan, guarded)),
        (True, NETWORKED if guarded.networked else EVALUATION),
        (True, HYPER_PARAMETERS),
        (True, FIXED_SPLITS),
        (c.spec.floating_point, FLOATING_POINT),
        (several, SEVERAL_CLIENTS.format(shards=guarded.shards)),
        (
            guarded.normalisation == "speaker" and (c.unit == "utterance" or several),
            NORMALISED.format(unit=c.unit),
        ),
    ]
    return [line for holds, line in said if holds and line]


def _delta_warning(plan: PrivacyPlan, guarded: ProtectedUnits) -> str:
    return (
        f"Delta {plan.config.delta:g} is large for {guarded.units:,} units: the guarantee may fail "
        f"outright for {plan.config.delta * guarded.units:.2g} of them. Choose privacy.delta="
        f"1e{math.floor(math.log10(LARGEST_DELTA / guarded.units))} or less."
    )


def _folds_warning(plan: PrivacyPlan, guarded: ProtectedUnits) -> str:
    if guarded.federations == 1:
        return ""
    if plan.config.cross_validation == "evaluation":
        return FOLDS_NOT_RELEASED
    return FOLDS.format(federations=guarded.federations, unit=plan.config.unit, most=guarded.most)


def _nominal_warnings(plan: PrivacyPlan, guarded: ProtectedUnits) -> list[str]:
    if not plan.config.spec.nominal:
        return []
    mechanism, num_examples = plan.client_mechanism(), guarded.num_examples
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
