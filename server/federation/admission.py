"""Decide which nodes take part in a networked study; check their rosters before any use.

A node may send anything as its roster. If a roster is malformed, differs from the rosters of most
nodes, or claims speakers of other nodes, then its node is left out, and no other node.
"""

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from fedser.client.corpora.names import identity, name_fault
from fedser.common.errors import UserError
from fedser.server.federation.remote_clients import Roster

MAX_CHARACTERS = 2**22
"""Characters of a roster's JSON, at most."""

MAX_SPEAKERS = 10_000
"""Speakers of one node, at most: a larger corpus is not held by a device."""

MAX_UTTERANCES = 100_000
"""Utterances of one speaker, at most."""

OUT_OF_PROPORTION = 100
"""A speaker may claim this many times the usual number of utterances, by which updates weigh."""

MAX_LENGTHS = {"version": 32, "features": 300}
"""Characters of these fields, at most."""

MAX_NUMBERS = {"shards": 1000, "dimension": 2**20}
"""Largest values of these fields."""

COMMON_FIELDS = ("version", "corpus", "shards", "features", "dimension")
"""Fields that must be equal for all nodes."""

NO_ROSTER = "sends no roster as a node of fedser does; is it a fedser-node?"


class BadRoster(Exception):
    """A node's roster cannot be used; the only argument is the reason, printable and short."""


def parse_roster(text: str) -> dict[str, Any]:
    """Read and check the roster of a node: see `client.holdings.Holdings.roster`.

    Raises
    ------
    BadRoster
        If the text is not a roster, or if a name, number or size is out of range.
    """
    if len(text) > MAX_CHARACTERS:
        raise BadRoster(f"its roster has {len(text)} characters, above {MAX_CHARACTERS}")
    try:
        roster = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        raise BadRoster(NO_ROSTER) from None
    check_roster(roster)
    return dict(roster)


def check_roster(roster: Any) -> None:
    """Check the form of a roster; raises as `parse_roster` does."""
    if not isinstance(roster, dict) or not isinstance(roster.get("speakers"), dict):
        raise BadRoster(NO_ROSTER)
    for key, longest in MAX_LENGTHS.items():
        text = roster.get(key)
        if not (isinstance(text, str) and len(text) <= longest and text.isprintable()):
            raise BadRoster(
                f"its {key} is not a printable text of at most {longest} characters; is it a "
                "fedser-node?"
            )
    if fault := name_fault(roster.get("corpus")):
        raise BadRoster(f"the name of its corpus {fault}")
    for key, largest in MAX_NUMBERS.items():
        number = roster.get(key)
        if not (type(number) is int and 1 <= number <= largest):
            raise BadRoster(f"its {key} is not a whole number from 1 to {largest}")
    _check_speakers(roster["speakers"], 2 * roster["shards"])


def _check_speakers(speakers: Mapping[str, Any], min_utterances: int) -> None:
    if not 1 <= len(speakers) <= MAX_SPEAKERS:
        raise BadRoster(f"names {len(speakers)} speakers; 1 to {MAX_SPEAKERS} are allowed")
    for name, count in speakers.items():
        if fault := name_fault(name):
            raise BadRoster(f"the name of a speaker {fault}")
        if not (type(count) is int and min_utterances <= count <= MAX_UTTERANCES):
            raise BadRoster(
                f"the number of utterances of speaker {name} is not a whole number from "
                f"{min_utterances} to {MAX_UTTERANCES}"
            )
    if len({identity(name) for name in speakers}) < len(speakers):
        raise BadRoster("names of its speakers differ only in case or spaces")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def nodes_to_reject(
    rosters: Mapping[int, Mapping[str, Any]], names: Mapping[int, str]
) -> dict[int, str]:
    """Return the nodes that must be left out, with the reason for each.

    Parameters
    ----------
    rosters : mapping of int to mapping
        Rosters that `parse_roster` accepted, by node.
    names : mapping of int to str
        Name of each node for messages.
    """
    rejected = _different_from_majority(rosters, names)
    rejected |= _out_of_proportion({n: r for n, r in rosters.items() if n not in rejected})
    while clashing := _clashes({n: r for n, r in rosters.items() if n not in rejected}):
        # A node that claims speakers of most others lies more likely than each of them.
        most = max(len(others) for others in clashing.values())
        for node, others in clashing.items():
            if len(others) == most:
                other, speaker = min(others.items(), key=lambda item: names[item[0]])
                rejected[node] = (
                    f"speaker {speaker} is also at node {names[other]}; give each speaker to one "
                    "node, with corpus.speakers or another folder"
                )
    return rejected


def _different_from_majority(
    rosters: Mapping[int, Mapping[str, Any]], names: Mapping[int, str]
) -> dict[int, str]:
    """Return the nodes that differ from most nodes; all nodes if there is no majority."""
    settings = {
        node: tuple(roster[key] for key in COMMON_FIELDS)
        for node, roster in sorted(rosters.items(), key=lambda item: names[item[0]])
    }
    if not settings:
        return {}
    ((usual, count), *others) = Counter(settings.values()).most_common()
    tied = any(number == count for _, number in others)
    rejected = {}
    for node, own in settings.items():
        if own != usual:
            key, here, there = next(
                (k, a, b) for k, a, b in zip(COMMON_FIELDS, own, usual, strict=True) if a != b
            )
            rejected[node] = (
                f"its {key} is {here}, and {there} at other nodes; start all nodes with the same"
            )
    if tied:  # it is unknown which nodes are right
        rejected |= dict.fromkeys(settings.keys() - rejected, "as many nodes differ from it")
    return rejected


def _out_of_proportion(rosters: Mapping[int, Mapping[str, Any]]) -> dict[int, str]:
    """Return the nodes with a speaker that claims far more utterances than is usual."""
    if len(rosters) < 2:
        return {}
    # The median over nodes of each node's median: one node with many made-up speakers cannot move
    # it.
    medians = [statistics.median_low(roster["speakers"].values()) for roster in rosters.values()]
    most = OUT_OF_PROPORTION * statistics.median_low(medians)
    rejected = {}
    for node, roster in rosters.items():
        speaker, count = max(roster["speakers"].items(), key=lambda item: item[1])
        if count > most:
            rejected[node] = (
                f"speaker {speaker} has {count} utterances, more than {OUT_OF_PROPORTION} times "
                "the usual number of these nodes"
            )
    return rejected


def _clashes(rosters: Mapping[int, Mapping[str, Any]]) -> dict[int, dict[int, str]]:
    """Return for each node the other nodes that claim a speaker of it, with one such speaker."""
    claims_of: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for node, roster in rosters.items():
        for speaker in roster["speakers"]:
            claims_of[identity(speaker)].append((node, speaker))
    found: dict[int, dict[int, str]] = defaultdict(dict)
    for claims in claims_of.values():
        for node, speaker in claims:
            found[node].update({other: speaker for other, _ in claims if other != node})
    return {node: others for node, others in found.items() if others}


def merge_rosters(rosters: Mapping[int, Mapping[str, Any]]) -> Roster:
    """Merge the rosters of the nodes that take part, at least one, into the roster of a study."""
    first = next(iter(rosters.values()))
    held = [(s, n, node) for node, roster in rosters.items() for s, n in roster["speakers"].items()]
    return Roster(
        first["corpus"],
        first["shards"],
        first["features"],
        first["dimension"],
        {speaker: count for speaker, count, _ in held},
        nodes={speaker: node for speaker, _, node in held},
    )


def describe_rejected(rejected: Mapping[int, str], names: Mapping[int, str]) -> str:
    """Return one line with the nodes that are left out, and the reason for each."""
    by_name = sorted((names[node], reason) for node, reason in rejected.items())
    return "; ".join(f"node {name}: {reason}" for name, reason in by_name)


def check_enough_nodes(
    rejected: Mapping[int, str], names: Mapping[int, str], accepted: int, needed: int
) -> None:
    """Check that enough nodes take part.

    Raises
    ------
    UserError
        If fewer than `needed` nodes are accepted; it says why the others are rejected.
    """
    if accepted < needed:
        raise UserError(
            f"{accepted} of {needed} nodes can take part: {describe_rejected(rejected, names)}; "
            "repair them, or lower runtime.min_clients"
        )


def dominant_nodes(rosters: Mapping[int, Mapping[str, Any]]) -> Collection[int]:
    """Return the node that claims more than half of all utterances of three nodes or more."""
    totals = {node: sum(roster["speakers"].values()) for node, roster in rosters.items()}
    whole = sum(totals.values())
    return [node for node, total in totals.items() if len(rosters) > 2 and 2 * total > whole]
