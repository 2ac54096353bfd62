"""The privacy that several runs on the same people spend together.

Every run trains on the people of its corpus anew, and an observer sees the results of all runs.
Runs of one corpus, unit, relation, vantage and delta compose to one epsilon; other runs do not add
up to one number, and are stated for themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from fedser.reports.wording import delta_text
from fedser.results.files import Results
from fedser.server.privacy.composition import Group, Releases, compose
from fedser.server.privacy.statement import epsilon_text

MOST_COMBINATIONS = 64
ACCOUNTANT = "pld"


@dataclass(frozen=True)
class ComposedRuns:
    """Runs that compose.

    Attributes
    ----------
    corpus, unit, relation, participation : str
        As in ``results.json``.
    delta : float
        Of each run, and of the composed epsilon.
    runs : int
        How many.
    epsilon : float
        What they spend together.
    """

    corpus: str
    unit: str
    relation: str
    participation: str
    delta: float
    runs: int
    epsilon: float


def spent_together(results: Sequence[Results]) -> list[ComposedRuns]:
    """Compose the runs that have a guarantee, by corpus and by what it is stated for."""
    groups: dict[tuple[str, ...], list[Results]] = {}
    for result in results:
        if _guarantees(result):
            privacy = result["privacy"]
            kind = (privacy[key] for key in ("unit", "relation", "participation", "vantage"))
            groups.setdefault((result["corpus"]["name"], *kind, privacy["delta"]), []).append(
                result
            )
    return [
        ComposedRuns(corpus, unit, relation, participation, float(delta), len(runs), _epsilon(runs))
        for (corpus, unit, relation, participation, _, delta), runs in groups.items()
    ]


def statements(results: Sequence[Results]) -> list[str]:
    """Say in sentences what the runs spend together, for each corpus that several are of."""
    said = []
    for corpus in dict.fromkeys(result["corpus"]["name"] for result in results):
        own = [result for result in results if result["corpus"]["name"] == corpus]
        if len(own) < 2:
            continue
        for found in spent_together(own):
            said.append(
                f"{_runs(found.runs)} on {corpus} spend together ε = {epsilon_text(found.epsilon)} "
                f"at δ = {delta_text(found.delta)} for one {found.unit} "
                f"({found.relation.replace('_', '-')}, participation {found.participation})."
            )
        if without := sum(not _guarantees(result) for result in own):
            said.append(
                f"{_runs(without)} on {corpus} without a guarantee: to an observer of all "
                f"{len(own)} runs nothing is guaranteed."
            )
        elif len(spent_together(own)) > 1:
            said.append(
                f"The runs on {corpus} are stated for different units, relations, observers or "
                "deltas. They do not compose to one epsilon, and together they spend more than "
                "each group."
            )
    return said


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count > 1)}"


def _guarantees(result: Results) -> bool:
    """Whether a run protects anybody: reproducible noise does not."""
    privacy = result["privacy"]
    return privacy["epsilon"] is not None and privacy["noise"] == "system"


def _epsilon(runs: Sequence[Results]) -> float:
    """Compose runs for the unit that is worst off in any of them.

    A run may have several kinds of units, such as clients of different sizes under DP-SGD. A
    unit is of one kind in each run: the largest epsilon over all combinations bounds it, or, if
    there are too many, all kinds of a run as if they were one unit's.
    """
    kinds = [_kinds(result) for result in runs]
    if prod(map(len, kinds)) > MOST_COMBINATIONS:
        combinations = [tuple(kind for of_run in kinds for kind in of_run)]
    else:
        combinations = list(product(*kinds))
    delta = float(runs[0]["privacy"]["delta"])
    return max(compose(tuple(sorted(c, key=str)), delta, ACCOUNTANT) for c in combinations)


def _kinds(result: Results) -> list[Group]:
    composition = result["privacy"]["composition"]
    noise = float(composition["noise_multiplier"])
    return [(Releases(**releases), noise) for releases in composition["releases"]]
