"""The stage that says, before any training, what a guarantee will leave."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from fedser.client.corpora.build import build_corpus
from fedser.common.cache import cache_folder
from fedser.common.console import console, plain
from fedser.common.errors import UserError
from fedser.conf.build import build_group
from fedser.conf.mechanisms import MECHANISMS
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.conf.schema import StudyConfig
from fedser.reports.numbers import counted, significant
from fedser.server.privacy.plan import PrivacyPlan
from fedser.server.privacy.statement import (
    LARGEST_DELTA,
    epsilon_text,
    noise_warning,
    small_delta,
)
from fedser.server.study.federations import deployment_plan

EPSILONS: Final = (1.0, 2.0, 4.0, 8.0)
SIZES: Final = (0.25, 0.5, 1, 2, 4, 16)
"""Columns of the table, and its rows: multiples of the number of clients."""
HALF: Final = 0.6
"""Noise to signal at which a softmax layer on public coordinates keeps half of what clients add.

Fitted to the 12 points with noise of docs/results/usable_privacy.md; the share that is kept differs
from the fit by 0.14 in root mean square."""
COHORTS: Final = (0.1, 0.3, 1.0)
"""Cohort fractions of the table of mechanisms, beside the configured one."""
GUARANTEES: Final = (
    ("local", "attributed", "zero_out"),
    ("central", "sum", "zero_out"),
    ("central", "outsider", "add_remove"),
    ("central_matrix", "sum", "zero_out"),
    ("central_matrix", "outsider", "add_remove"),
    ("distributed", "sum", "zero_out"),
)
"""Mechanism, vantage and relation of each row of the table of mechanisms."""
NEEDED: Final[Mapping[str, Any]] = {"accountant": "pld", "aggregation": "secure", "dropout": 0.1}
"""Keys that only some of these mechanisms need, with the values of their options."""
PARTICIPATION: Final = {"attributed": "known", "sum": "known", "outsider": "secret"}
GOAL: Final = 0.8
"""Share to be kept, for which the number of clients is given."""
POINTS: Final = 5
"""Points of test UAR that this share loses, if the clients can add `POINTS / (1 - GOAL)` points."""


def plan_study(config: StudyConfig) -> None:
    """Print the noise of one federation of all clients: for sizes and epsilons, and mechanisms.

    Raises
    ------
    UserError
        If the mechanism has no noise on updates that a guarantee calibrates.
    """
    clients, public = _count_clients(config), config.model.components is not None
    dimension = _dimension(config)
    plan = deployment_plan(config, clients, dimension)
    if plan.noise_to_signal is None:
        raise UserError(
            f"stage=plan: privacy={config.privacy.mechanism} has no calibrated noise on updates; "
            "set privacy=central or privacy=local"
        )
    console.print(_table(plan, clients, public))
    if config.privacy.epsilon is not None:
        console.print(_mechanism_table(config, clients, dimension))
    for line in _lines(plan, clients, public):
        console.print(plain(line), soft_wrap=True)


def _count_clients(config: StudyConfig) -> int:
    """Return the planned number of clients, by default that of the private corpus."""
    if config.plan.clients is not None:
        return config.plan.clients
    if config.runtime.name == "network":
        raise UserError("stage=plan: the nodes hold the corpus; set plan.clients to their number")
    corpus = build_corpus(config.corpus, config.data_root)
    listed = corpus.listing(cache_folder(config.cache)).utterances
    return len({utterance.speaker for utterance in listed}) * int(corpus.shards)


def _dimension(config: StudyConfig) -> int:
    """Return the number of inputs of the model, by a second of noise if it reads features."""
    if config.model.components is not None:
        return int(config.model.components)
    extractor = build_group("features", config.features)
    noise = np.random.default_rng(0).normal(0, 0.1, extractor.sampling_rate).astype(np.float32)
    (features,) = extractor([noise])
    return int(features.shape[-1])


def kept(ratio: float) -> float:
    """Return about which share of what clients add is kept at this noise to signal."""
    return 1 / (1 + ratio / HALF)


def scaled(ratio: float, plan: PrivacyPlan, factor: float) -> float:
    """Return the noise to signal with `factor` times the clients."""
    return float(ratio / factor ** _power(plan))


def _power(plan: PrivacyPlan) -> float:
    """Return the power of the number of clients by which the noise to signal falls.

    Noise on a sum does not grow with the clients; their own noises add up like the root.
    """
    return 1.0 if plan.config.summed else 0.5


def _ratio(plan: PrivacyPlan, epsilon: float) -> float:
    """Return the noise to signal of a plan at another epsilon."""
    return plan.with_noise(epsilon=epsilon).noise_to_signal or 0.0


def _table(plan: PrivacyPlan, clients: int, public: bool) -> Table:
    table = Table(title=plain("noise to signal"), box=SIMPLE_HEAD)
    for column in ("clients", *(f"ε = {epsilon_text(epsilon)}" for epsilon in EPSILONS)):
        table.add_column(column, justify="right")
    ratios = [_ratio(plan, epsilon) for epsilon in EPSILONS]
    for size in SIZES:
        cells = []
        for ratio in ratios:
            found = scaled(ratio, plan, size)
            share = f" ({100 * kept(found):.0f} %)" if public else ""
            cells.append(f"{found:.2g}{share}")
        table.add_row(f"{max(1, round(clients * size)):,}", *cells)
    table.caption = plain(
        "Above 1 nothing is learned."
        + (" In brackets: the share of what clients can add to public speech." if public else "")
    )
    return table


def _mechanism_table(config: StudyConfig, clients: int, dimension: int) -> Table:
    """Return the noise to signal of each mechanism and cohort, at the configured epsilon."""
    fractions = sorted({config.cohort_fraction, *COHORTS})
    ratios = [
        [_alternative(config, guarantee, fraction, clients, dimension) for fraction in fractions]
        for guarantee in GUARANTEES
    ]
    least = np.min(ratios, axis=0)
    shown = epsilon_text(config.privacy.epsilon)
    table = Table(title=plain(f"noise to signal of mechanisms, ε = {shown}"), box=SIMPLE_HEAD)
    table.add_column("privacy=")
    table.add_column("participation")
    for fraction in fractions:
        table.add_column(f"{max(1, round(fraction * clients)):,} a round", justify="right")
    for (name, vantage, _), found in zip(GUARANTEES, ratios, strict=True):
        marks = [" *" if ratio == best else "" for ratio, best in zip(found, least, strict=True)]
        cells = (
            f"{ratio:.2g}{mark}" if math.isfinite(ratio) else "–"
            for ratio, mark in zip(found, marks, strict=True)
        )
        table.add_row(name, PARTICIPATION[vantage], *cells)
    table.caption = plain("* least noise for this number of clients a round")
    return table


def _alternative(
    config: StudyConfig,
    guarantee: tuple[str, str, str],
    fraction: float,
    clients: int,
    dimension: int,
) -> float:
    """Return the noise to signal of another mechanism with the same epsilon, clip and unit.

    It is infinite if the mechanism cannot sum such cohorts.
    """
    (mechanism, vantage, relation), c = guarantee, config.privacy
    needed = {k: value for k, value in NEEDED.items() if k in MECHANISMS[mechanism].needed}
    privacy = PrivacyConfig(
        mechanism=mechanism,
        vantage=vantage,
        relation=relation,
        **needed,
        **{key: getattr(c, key) for key in ("epsilon", "delta", "unit", "clipping_norm", "layers")},
    )
    other = replace(config, privacy=privacy, cohort_fraction=fraction)
    try:
        return deployment_plan(other, clients, dimension).noise_to_signal or math.inf
    except UserError:
        return math.inf


def _lines(plan: PrivacyPlan, clients: int, public: bool) -> list[str]:
    """Return what the configured guarantee means, and what to change."""
    c, ratio = plan.config, plan.noise_to_signal or 0.0
    goal = HALF * (1 / GOAL - 1) if public else 0.5
    needed = max(1, math.ceil(clients * (ratio / goal) ** (1 / _power(plan))))
    reach = "bring it to 0.5"
    if public:
        reach = (
            f"keep {100 * GOAL:.0f} % (to lose {POINTS} points where the clients add "
            f"{POINTS / (1 - GOAL):.0f} to public speech)"
        )
    lines = [
        f"{counted(clients, 'client')}, {plan.expected_cohort:g} in each of "
        f"{counted(plan.num_rounds, 'round')}, {sum(plan.shared.values()):,} weights shared; "
        f"privacy={c.mechanism}, unit {c.unit}, {c.relation}, vantage {c.vantage}, "
        f"δ = {c.delta:g}",
        f"noise multiplier {significant(plan.noise_multiplier)}: noise to signal "
        f"{ratio:.2g}; to {reach}, {needed:,} clients are needed",
    ]
    if warning := noise_warning(plan):
        lines.append(warning)
    if c.delta * clients > LARGEST_DELTA:
        lines.append(
            f"δ = {c.delta:g} is large for {clients:,} clients: set privacy.delta to "
            f"{small_delta(clients)} or less"
        )
    return lines
