"""The privacy that several runs on the same people spend together.

Every run trains on the people of its corpus again, and an observer may see the results of all
runs. Runs that agree in corpus, unit, relation, vantage and delta compose to one epsilon. Other
runs do not add up to one number, so each group is stated alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from fedser.reports.numbers import counted, guarantee_text, relation_text
from fedser.results.files import Results
from fedser.server.privacy.composition import Group, Releases, groups_epsilon

MOST_COMBINATIONS = 64
ACCOUNTANT = "pld"


@dataclass(frozen=True)
class ComposedRuns:
    """A group of runs that compose to one epsilon.

    Attributes
    ----------
    corpus, unit, relation, participation : str
        As in ``results.json``.
    delta : float
        Delta of each run and of the composed epsilon.
    runs : int
        Number of runs.
    epsilon : float
        Epsilon of all runs together.
    """

    corpus: str
    unit: str
    relation: str
    participation: str
    delta: float
    runs: int
    epsilon: float


def compose_runs(results: Sequence[Results]) -> list[ComposedRuns]:
    """Compose the runs that have a guarantee, for each corpus and kind of guarantee."""
    groups: dict[tuple[str, ...], list[Results]] = {}
    for run in results:
        if _guarantees(run):
            privacy = run["privacy"]
            kind = (privacy[key] for key in ("unit", "relation", "participation", "vantage"))
            groups.setdefault((run["corpus"]["name"], *kind, privacy["delta"]), []).append(run)
    return [
        ComposedRuns(corpus, unit, relation, participation, float(delta), len(runs), _epsilon(runs))
        for (corpus, unit, relation, participation, _, delta), runs in groups.items()
    ]


def composition_sentences(results: Sequence[Results]) -> list[str]:
    """Return what the runs spend together, in sentences, for each corpus with several runs."""
    by_corpus: dict[str, list[Results]] = {}
    for run in results:
        by_corpus.setdefault(run["corpus"]["name"], []).append(run)
    return [
        sentence
        for corpus, runs in by_corpus.items()
        if len(runs) > 1
        for sentence in _corpus_sentences(corpus, runs)
    ]


def _corpus_sentences(corpus: str, results: Sequence[Results]) -> list[str]:
    groups = compose_runs(results)
    sentences = [
        f"{counted(group.runs, 'run')} on {corpus} spend together "
        f"{guarantee_text(group.epsilon, group.delta, group.unit)} "
        f"({relation_text(group.relation)}, participation {group.participation})."
        for group in groups
    ]
    if without := sum(not _guarantees(run) for run in results):
        have = "has" if without == 1 else "have"
        sentences.append(
            f"{counted(without, 'run')} on {corpus} {have} no guarantee. Nothing is guaranteed "
            f"against an observer who sees all {len(results)} runs."
        )
    elif len(groups) > 1:
        sentences.append(
            f"The runs on {corpus} differ in unit, relation, observer or delta. They do not "
            "compose to one epsilon. Together they spend more than each group alone."
        )
    return sentences


def _guarantees(results: Results) -> bool:
    """Return whether a run protects anybody; a run with reproducible noise does not."""
    privacy = results["privacy"]
    return privacy["epsilon"] is not None and privacy["noise"] == "system"


def _epsilon(results: Sequence[Results]) -> float:
    """Compose runs for the unit that spends most.

    A run may have several kinds of units, such as clients of different sizes under DP-SGD. Each
    unit is of one kind in each run, so the largest epsilon over all combinations of kinds is an
    upper bound. If there are too many combinations, one unit is charged with all kinds of a run,
    which is a larger upper bound.
    """
    kinds = [_kinds(run) for run in results]
    if prod(map(len, kinds)) > MOST_COMBINATIONS:
        combinations = [tuple(kind for of_run in kinds for kind in of_run)]
    else:
        combinations = list(product(*kinds))
    delta = float(results[0]["privacy"]["delta"])
    return max(groups_epsilon(tuple(sorted(c, key=str)), delta, ACCOUNTANT) for c in combinations)


def _kinds(results: Results) -> list[Group]:
    composition = results["privacy"]["composition"]
    noise = float(composition["noise_multiplier"])
    return [(Releases(**releases), noise) for releases in composition["releases"]]
