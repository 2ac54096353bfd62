"""The privacy statement of a run: its guarantee, and warnings of everything outside of it."""

import math
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any

import numpy as np
import numpy.typing as npt

from fedser.client.privacy.distributed import counted_clients
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
SERVER_TOO = (
    "everybody who sees the noised sums of all rounds and knows who took part, the server included"
)
NOT_PLAIN_SERVER = (
    "everybody who sees the noised sums of all rounds and knows who took part; not the server, "
    "which sees each update with a small share of the noise"
)
NO_MECHANISM = (
    "No privacy mechanism: updates, example counts and training losses leave the device in the "
    "clear. Nothing is guaranteed."
)
ENCRYPTED_SUMS = (
    "the server, which sees the sums of all rounds and who took part, but no update of one client"
)
ENCRYPTED = (
    "No privacy mechanism: nothing is guaranteed. Encryption hides each update from the server, "
    "unless the server works with the node that holds the key of a round, or has it decrypt one "
    "update as a sum: the node cannot tell them apart. It does not hide what the sums and the "
    "models reveal; example counts and training losses leave the device in the clear."
)
CUSTOM = (
    "The mechanism is a custom one. Nothing is accounted for it: only the attacks below show how "
    "well it protects."
)
CLIPPED_GRADIENTS = (
    "Clipping gradients does not bound an Adam update: its first step is about the learning rate "
    "times the sign of the gradient. The epsilon above uses a bound that holds."
)
NO_AMPLIFICATION = (
    "The server sees every update with its sender, so sampling cohorts does not lower epsilon."
)
TRUSTED_SERVER = (
    "The server is trusted: it receives updates without noise. The attacks of this report read "
    "these updates, so their results lie outside the guarantee. The norms, clip fractions and "
    "cohorts that the server logs lie outside it too."
)
PLAIN_SHARES = (
    "The server is trusted: without secure aggregation it receives each update with a small share "
    "of the noise. The attacks of this report read these updates, so their results lie outside the "
    "guarantee."
)
SECURE_SUMS = (
    "The guarantee against the server relies on secure aggregation. It holds if at most a tenth of "
    "a round's clients tell the server what they know: epsilon counts the noise of {counted} of "
    "the {least} clients that a sum needs. A server that runs many clients of its own is not "
    "covered."
)
SIMULATED_MASKS = (
    "The protocol of secure aggregation was run in full, but all clients run on machines of the "
    "experimenter: nothing was hidden from them."
)
SECRET_COHORTS = (
    "Epsilon relies on nobody knowing who took part in a round. Against an observer who knows it, "
    "use the two epsilons with known participation: zero-out, if the updates of a unit are "
    "replaced by zeros, and replace-one, if they are replaced by any others."
)
TURNS = (
    "The noise of a round takes back a part of earlier noise. Epsilon therefore relies on the "
    "turns of a client: they are at least {bands} rounds apart, which the server enforces, also "
    "after an interruption."
)
ZERO_OUT = (
    "Everybody knows who took part, so the presence of a unit is visible and is not protected. "
    "The relation is zero-out: epsilon compares a unit's updates with zeros in their place. To "
    "compare them with any other updates, set privacy.relation=replace_one."
)
UTTERANCES = (
    "One utterance is protected, not the speaker: a property that all utterances of a speaker "
    "share, such as gender, is not hidden. The number of utterances is taken as public."
)
REPRODUCIBLE_NOISE = (
    "The noise follows from the seed (privacy.reproducible_noise=true): everybody who knows the "
    "seed can subtract it, and this run protects nobody. Epsilon is the value that the same run "
    "would have with secret noise."
)
FLOATING_POINT = (
    "Noise is added in floating point. An observer who inspects the bits of an update can learn "
    "more than epsilon says (Mironov, 2012)."
)
EVALUATION = (
    "The simulation evaluates on the clients' validation utterances and the test speakers' "
    "utterances. Corpus-wide normalisation pools feature statistics. These figures are outside the "
    "guarantee."
)
BEST = "The best round is chosen by the clients' validation utterances, outside the guarantee."
BEST_NETWORKED = (
    "The server chooses the best round by the nodes' confusion tables, outside the guarantee."
)
FIXED_SPLITS = (
    "Folds, shards, and training and validation parts are taken as fixed and public: epsilon "
    "compares data sets with the same splits."
)
HYPER_PARAMETERS = (
    "Epsilon is that of this run alone. Every other run on the same people adds to it. If "
    "hyper-parameters (clip, noise, rounds, learning rate) are chosen by the results of several "
    "runs, all these runs count."
)
FOLDS = (
    "Epsilon covers all {federations} federations of this run: each {unit} trains in up to {most} "
    "of them, and all their models and updates count as released."
)
FOLDS_NOT_RELEASED = (
    "Declared: cross-validation only estimates utility (privacy.cross_validation=evaluation). "
    "Epsilon is that of one federation. It holds only if the models and updates of a single fold "
    "are released; the transcript and the figures of the other folds must stay with the "
    "experimenter."
)
NETWORKED = (
    "Over the network each node reports once which speakers it holds and how many utterances they "
    "have. In every round it reports confusion tables of its validation and test utterances. All "
    "of this is outside the guarantee."
)
NETWORK_LEAVES = (
    "roster: versions, corpus, features, speakers and their number of utterances, once",
    "confusion tables of validation and test utterances, in every round",
)
METRICS_SHARED = (
    "Example counts and losses leave the device outside the guarantee (privacy.share_metrics=true)."
)
NORMALISED = (
    "Features are normalised with statistics of all of a speaker's training utterances. The "
    "guarantee (unit: {unit}) takes these statistics as fixed; set normalisation=none to avoid "
    "them."
)
SEVERAL_CLIENTS = (
    "The unit is a client, and one speaker holds {shards} clients: the speaker's epsilon is "
    "larger. Set privacy.unit=speaker to see it."
)
LARGEST_DELTA = 0.1
"""A guarantee is never called strong if delta times the number of units is larger."""


@dataclass(frozen=True)
class SpentPrivacy:
    """The privacy that a run has spent.

    Attributes
    ----------
    epsilon : float or None
        Spent by the unit that spent most, over all federations that count together, against the
        plan's vantage; None without a finite guarantee.
    epsilon_one_federation : float or None
        The largest epsilon of one federation alone: what a deployment of one model would spend.
    epsilon_known, epsilon_known_replaced : float or None
        Epsilon against an observer who knows who took part, with zero-out and with replace-one;
        None if `epsilon` already assumes this observer.
    releases : int
        Largest number of updates of one unit that may have left their devices.
    noise_multiplier : float or None
        Noise over the sensitivity that is the unit of `exposures`.
    exposures : tuple of Releases
        Releases of the units that may have spent most.
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
    """The people and the data that a privacy statement covers.

    Attributes
    ----------
    num_examples : ndarray of int64, shape (N,)
        Training utterances of each client.
    units : int
        Number of units of the guarantee, over all federations.
    shards : int
        Number of clients per speaker.
    normalisation : str
        Feature normalisation: ``speaker``, ``corpus`` or ``none``.
    networked : bool
        Whether clients run on other machines.
    federations : int
        Number of federations of the run.
    most : int
        Largest number of federations that one unit trains in.
    public_start : bool
        Whether the initial weights were learned from public speech; the last model then counts.
    """

    num_examples: npt.NDArray[np.int64]
    units: int
    shards: int
    normalisation: str
    networked: bool = False
    federations: int = 1
    most: int = 1
    public_start: bool = False


def epsilon_text(epsilon: float | None) -> str:
    """Return a spent epsilon with three digits, rounded up: 8.0049 becomes 8.01, not 8."""
    if epsilon is None:
        return "–"
    exact = Decimal(str(epsilon))
    last = 0 if epsilon >= 100 else exact.adjusted() - 2
    shown = float(exact.quantize(Decimal(1).scaleb(last), ROUND_CEILING)) if epsilon else 0.0
    return f"{shown:,.0f}" if epsilon >= 100 else f"{shown:.3g}"


def privacy_statement(
    plan: PrivacyPlan, spent: SpentPrivacy, protected: ProtectedUnits
) -> dict[str, Any]:
    """Return ``privacy`` of ``results.json``; the values of an absent guarantee are None."""
    c, guaranteed = plan.config, spent.epsilon is not None
    return {
        "mechanism": c.title,
        "unit": c.unit if guaranteed else None,
        "units": protected.units if guaranteed else None,
        "relation": c.relation if guaranteed else None,
        "vantage": _vantage(plan, guaranteed),
        "participation": _participation(plan) if guaranteed else None,
        "sampling": plan.sampling,
        "bands": plan.bands if c.spec.correlated else None,
        "delta": c.delta if guaranteed else None,
        "epsilon": spent.epsilon,
        "epsilon_one_federation": spent.epsilon_one_federation,
        "epsilon_known_participation": spent.epsilon_known,
        "epsilon_known_replace_one": spent.epsilon_known_replaced,
        "nominal_epsilon": c.epsilon if c.spec.nominal else None,
        "nominal_delta": c.nominal_delta,
        "accountant": _accountant(plan, spent) if guaranteed else None,
        "noise_multiplier": plan.noise_multiplier,
        "noise_to_signal": plan.noise_to_signal,
        "clipping_norm": c.clipping_norm,
        "noise": _noise(c),
        "cross_validation": c.cross_validation,
        "composition": _composition(spent) if guaranteed else None,
        "releases_max": spent.releases,
        "leaves_device": [
            "encrypted update" if c.encrypted else "update",
            *plan.client_mechanism().metrics,
            *(NETWORK_LEAVES if protected.networked else ()),
        ],
        "warnings": _warnings(plan, protected),
    }


def _composition(spent: SpentPrivacy) -> dict[str, Any]:
    releases = [asdict(releases) for releases in spent.exposures]
    return {"noise_multiplier": spent.noise_multiplier, "releases": releases}


def _noise(privacy: PrivacyConfig) -> str | None:
    if privacy.spec.noise_at is None:
        return None
    return "system" if privacy.secret_noise else "seeded"


def _vantage(plan: PrivacyPlan, guaranteed: bool) -> str:
    if plan.config.encrypted:
        return ENCRYPTED_SUMS
    if not guaranteed:
        return VANTAGES["attributed"]
    if plan.config.spec.noise_at != "shares":
        return VANTAGES[plan.config.vantage]
    return SERVER_TOO if plan.config.aggregation == "secure" else NOT_PLAIN_SERVER


def _participation(plan: PrivacyPlan) -> str:
    return "secret" if plan.config.vantage == "outsider" else "known"


def _accountant(plan: PrivacyPlan, spent: SpentPrivacy) -> str:
    """Name the accountants that composed epsilon; they may differ from the configured one."""
    assert spent.noise_multiplier is not None
    asked, delta = plan.config.accountant or "", plan.config.delta
    used = {
        accountant_used([(releases, spent.noise_multiplier)], delta, asked)
        for releases in spent.exposures
    }
    names = [name for key, name in ACCOUNTANTS.items() if key in used]
    return " and ".join(names) or "exact Gaussian composition"


def _warnings(plan: PrivacyPlan, protected: ProtectedUnits) -> list[str]:
    c = plan.config
    if not c.states_epsilon:
        without = ENCRYPTED if c.encrypted else NO_MECHANISM
        return [without if c.custom is None else CUSTOM]
    several = protected.shards > 1 and c.unit == "client"
    warnings = [
        (not c.secret_noise, REPRODUCIBLE_NOISE),
        *((True, line) for line in _nominal_warnings(plan, protected)),
        (c.delta * protected.units > LARGEST_DELTA, _delta_warning(plan, protected)),
        (True, noise_warning(plan)),
        (plan.central, TRUSTED_SERVER),
        (c.aggregation == "plain", PLAIN_SHARES),
        (c.aggregation == "secure", _secure_warning(plan)),
        (c.aggregation == "secure" and not protected.networked, SIMULATED_MASKS),
        (c.secret_cohorts, SECRET_COHORTS),
        (plan.bands > 1, TURNS.format(bands=plan.bands)),
        (c.relation == "zero_out", ZERO_OUT),
        (c.unit == "utterance", UTTERANCES),
        (c.vantage == "attributed" and c.unit != "utterance", NO_AMPLIFICATION),
        (c.share_metrics, METRICS_SHARED),
        (True, _folds_warning(plan, protected)),
        (True, NETWORKED if protected.networked else EVALUATION),
        (not protected.public_start, BEST_NETWORKED if protected.networked else BEST),
        (True, HYPER_PARAMETERS),
        (True, FIXED_SPLITS),
        (c.spec.floating_point, FLOATING_POINT),
        (several, SEVERAL_CLIENTS.format(shards=protected.shards)),
        (
            protected.normalisation == "speaker" and (c.unit == "utterance" or several),
            NORMALISED.format(unit=c.unit),
        ),
    ]
    return [line for holds, line in warnings if holds and line]


def _secure_warning(plan: PrivacyPlan) -> str:
    if plan.config.aggregation != "secure":
        return ""
    sums = plan.distributed_sum
    counted = counted_clients(sums.cohort, sums.min_clients)
    return SECURE_SUMS.format(least=sums.min_clients, counted=counted)


def noise_warning(plan: PrivacyPlan) -> str:
    """Return what to expect if the noise outweighs all that training can learn, otherwise ""."""
    if (plan.noise_to_signal or 0.0) <= 1:
        return ""
    return (
        f"The noise in the last model is {plan.noise_to_signal:.2g} times the longest way "
        "that clipped updates can move it: expect to learn nothing from the clients. Let more of "
        "them take part in each round, or share fewer weights (model=linear, model.components)."
    )


def _delta_warning(plan: PrivacyPlan, protected: ProtectedUnits) -> str:
    return (
        f"Delta {plan.config.delta:g} is large for {protected.units:,} units: the guarantee may "
        f"fail completely for {plan.config.delta * protected.units:.2g} of them. Choose "
        f"privacy.delta={small_delta(protected.units)} or less."
    )


def small_delta(units: int) -> str:
    """Return the largest power of ten that is a small delta for this number of units."""
    return f"1e{math.floor(math.log10(LARGEST_DELTA / units))}"


def _folds_warning(plan: PrivacyPlan, protected: ProtectedUnits) -> str:
    if protected.federations == 1:
        return ""
    if plan.config.cross_validation == "evaluation":
        return FOLDS_NOT_RELEASED
    return FOLDS.format(
        federations=protected.federations, unit=plan.config.unit, most=protected.most
    )


def _nominal_warnings(plan: PrivacyPlan, protected: ProtectedUnits) -> list[str]:
    if not plan.config.spec.nominal:
        return []
    mechanism, num_examples = plan.client_mechanism(), protected.num_examples
    largest, smallest = (mechanism.stddev(int(n)) for n in (num_examples.max(), num_examples.min()))
    nominal = (
        f"The nominal epsilon {plan.config.epsilon:g} at delta {plan.config.nominal_delta:g} "
        "does not hold: the published composition leaves out a term that dominates at this delta, "
        "and a delta of 0.5 allows a complete breach every other time."
    )
    counts = (
        "Noise depends on the client's number of utterances: the standard deviation is "
        f"{largest:.2g} for the largest client, {smallest:.2g} for the smallest. The number of "
        "utterances leaves the device in the clear, and epsilon takes it as public."
    )
    return [nominal, CLIPPED_GRADIENTS, counts]
