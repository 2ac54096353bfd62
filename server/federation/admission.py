"""Which nodes take part in a networked study: a roster is checked before anything is made of it.

A node may say anything of itself. A roster that is malformed, that does not fit those of the other
nodes or that claims their speakers costs its node the place in the study, and nobody else's.
"""

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from fedser.client.corpora.names import identity, name_fault
from fedser.common.errors import UserError
from fedser.server.federation.remote_clients import Roster

MOST_BYTES = 2**22
"""Characters of a roster's JSON."""

MOST_SPEAKERS = 10_000
"""Of a node; larger corpora are published as a whole, not by a device."""

MOST_UTTERANCES = 100_000
"""Of a speaker."""

OUT_OF_PROPORTION = 100
"""How often the usual number of utterances a speaker may claim: updates are weighted by it."""

TEXTS = {"version": 32, "features": 300}
"""Characters of these fields, at most."""

NUMBERS = {"shards": 1000, "dimension": 2**20}
"""Largest values of these fields."""

SHARED = ("version", "corpus", "shards", "features", "dimension")
"""In what all nodes must agree."""


class BadRoster(Exception):
    """A node's roster cannot be used; its one argument says why, printable and short."""


def parse_roster(text: str) -> dict[str, Any]:
    """Read and check what a node tells of itself: see `client.holdings.Holdings.roster`.

    Raises
    ------
    BadRoster
        If it is none, or names, numbers or sizes are out of range.
    """
    if len(text) > MOST_BYTES:
        raise BadRoster(f"its roster has {len(text)} characters, above {MOST_BYTES}")
    try:
        roster = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        raise BadRoster("does not tell what a node of fedser does; is it one?") from None
    check_roster(roster)
    return dict(roster)


def check_roster(roster: Any) -> None:
    """Check a roster's form; raises as `parse_roster` does."""
    if not isinstance(roster, dict) or not isinstance(roster.get("speakers"), dict):
        raise BadRoster("does not tell what a node of fedser does; is it one?")
    for key, longest in TEXTS.items():
        text = roster.get(key)
        if not (isinstance(text, str) and len(text) <= longest and text.isprintable()):
            raise BadRoster(f"does not tell its {key}; is it a node of fedser?")
    if fault := name_fault(roster.get("corpus")):
        raise BadRoster(f"the name of its corpus {fault}")
    for key, most in NUMBERS.items():
        number = roster.get(key)
        if not (type(number) is int and 1 <= number <= most):
            raise BadRoster(f"does not tell its {key}, 1 to {most}")
    _check_speakers(roster["speakers"], 2 * roster["shards"])


def _check_speakers(speakers: Mapping[str, Any], least: int) -> None:
    if not 1 <= len(speakers) <= MOST_SPEAKERS:
        raise BadRoster(f"names {len(speakers)} speakers; 1 to {MOST_SPEAKERS} are allowed")
    for name, count in speakers.items():
        if fault := name_fault(name):
            raise BadRoster(f"the name of a speaker {fault}")
        if not (type(count) is int and least <= count <= MOST_UTTERANCES):
            raise BadRoster(
                f"the number of utterances of speaker {name} is not within {least} and "
                f"{MOST_UTTERANCES}"
            )
    if len({identity(name) for name in speakers}) < len(speakers):
        raise BadRoster("names of its speakers differ in case or spaces alone")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def choose_nodes(told: Mapping[int, Mapping[str, Any]], names: Mapping[int, str]) -> dict[int, str]:
    """Return the nodes that must be left out, and why.

    Parameters
    ----------
    told : mapping of int to mapping
        Rosters that `parse_roster` accepted, by node.
    names : mapping of int to str
        How to call each node.
    """
    refused = _without_majority(told, names)
    refused |= _out_of_proportion({n: r for n, r in told.items() if n not in refused})
    while clashing := _clashes({n: r for n, r in told.items() if n not in refused}):
        # Who claims the speakers of most others lies more likely than each of them.
        most = max(len(others) for others in clashing.values())
        for node, others in clashing.items():
            if len(others) == most:
                other, speaker = min(others.items(), key=lambda item: names[item[0]])
                refused[node] = (
                    f"speaker {speaker} is at node {names[other]}, too; give each speaker to one "
                    "node, with corpus.speakers or another folder"
                )
    return refused


def _without_majority(
    told: Mapping[int, Mapping[str, Any]], names: Mapping[int, str]
) -> dict[int, str]:
    """Return the nodes that differ from what most say; where two are as many, the later ones."""
    settings = {
        node: tuple(roster[key] for key in SHARED)
        for node, roster in sorted(told.items(), key=lambda item: names[item[0]])
    }
    if not settings:
        return {}
    ((usual, count), *others) = Counter(settings.values()).most_common()
    tied = any(number == count for _, number in others)
    refused = {}
    for node, own in settings.items():
        if own != usual:
            key, here, there = next(
                (k, a, b) for k, a, b in zip(SHARED, own, usual, strict=True) if a != b
            )
            refused[node] = (
                f"its {key} is {here}, that of others {there}; start all nodes with the same"
            )
    if tied:  # nobody can tell who is right
        refused |= dict.fromkeys(settings.keys() - refused, "as many nodes differ from it")
    return refused


def _out_of_proportion(told: Mapping[int, Mapping[str, Any]]) -> dict[int, str]:
    if len(told) < 2:
        return {}
    # The median of nodes, each with its own: many made-up speakers of one do not move it.
    of_nodes = [statistics.median_low(roster["speakers"].values()) for roster in told.values()]
    most = OUT_OF_PROPORTION * statistics.median_low(of_nodes)
    refused = {}
    for node, roster in told.items():
        speaker, count = max(roster["speakers"].items(), key=lambda item: item[1])
        if count > most:
            refused[node] = (
                f"speaker {speaker} has {count} utterances, more than {OUT_OF_PROPORTION} times "
                "as many as is usual at these nodes"
            )
    return refused


def _clashes(told: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[int, str]]:
    """Return for each node the others that name a speaker of its, and one such speaker."""
    at: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for node, roster in told.items():
        for speaker in roster["speakers"]:
            at[identity(speaker)].append((node, speaker))
    found: dict[int, dict[int, str]] = defaultdict(dict)
    for claims in at.values():
        for node, speaker in claims:
            found[node].update({other: speaker for other, _ in claims if other != node})
    return {node: others for node, others in found.items() if others}


def merge_rosters(told: Mapping[int, Mapping[str, Any]]) -> Roster:
    """Put together what the nodes that take part told of themselves: at least one."""
    first = next(iter(told.values()))
    held = [(s, n, node) for node, roster in told.items() for s, n in roster["speakers"].items()]
    return Roster(
        first["corpus"],
        first["shards"],
        first["features"],
        first["dimension"],
        {speaker: count for speaker, count, _ in held},
        nodes={speaker: node for speaker, _, node in held},
    )


def describe(refused: Mapping[int, str], names: Mapping[int, str]) -> str:
    """Return on one line which nodes are left out, and why."""
    by_name = sorted((names[node], reason) for node, reason in refused.items())
    return "; ".join(f"node {name}: {reason}" for name, reason in by_name)


def refuse_few(refused: Mapping[int, str], names: Mapping[int, str], left: int, least: int) -> None:
    """Refuse a study for which too few nodes are left.

    Raises
    ------
    UserError
        Saying what is wrong with the others.
    """
    if left < least:
        raise UserError(
            f"{left} of {least} nodes can take part: {describe(refused, names)}; mend them, or "
            "lower runtime.min_clients"
        )


def dominant(told: Mapping[int, Mapping[str, Any]]) -> Collection[int]:
    """Return the node that claims more than half of all utterances of three nodes or more."""
    totals = {node: sum(roster["speakers"].values()) for node, roster in told.items()}
    whole = sum(totals.values())
    return [node for node, total in totals.items() if len(told) > 2 and 2 * total > whole]
