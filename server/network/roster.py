"""Wait for the nodes of a networked study, and ask each node for its roster."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from rich.console import Console

from fedser.server.federation.admission import (
    BadRoster,
    check_enough_nodes,
    describe_rejected,
    dominant_nodes,
    merge_rosters,
    nodes_to_reject,
    parse_roster,
)
from fedser.server.federation.remote_clients import Roster
from fedser.server.strategy.nodes import wait_for_nodes
from fedser.server.strategy.replies import error_text, match

ANSWER_SECONDS = 120.0
"""Time for nodes to send their rosters."""

console = Console(stderr=True)


@dataclass(frozen=True)
class Network:
    """A grid of real nodes.

    Attributes
    ----------
    names : mapping of int to str, or None
        Nodes that may take part, with the name of each. None (``runtime.insecure``) lets every
        connected node take part.
    count : int
        Number of nodes to wait for.
    min_nodes : int
        The study does not start if fewer nodes send a roster that can be used.
    """

    grid: Grid
    names: Mapping[int, str] | None
    count: int
    min_nodes: int = 1

    def roster(self, patience: float) -> Roster:
        """Wait up to `patience` seconds for the nodes, and ask each once for its roster.

        A node without a usable roster is named and left out.

        Raises
        ------
        Suspended
            If nodes are missing.
        UserError
            If fewer than `min_nodes` are left.
        """
        nodes = wait_for_nodes(self.grid, self.count, patience, self.names)
        names = self.names or {node: str(node) for node in nodes}
        rejected, rosters = self._ask(nodes)
        rejected |= nodes_to_reject(rosters, names)
        rosters = {node: roster for node, roster in rosters.items() if node not in rejected}
        check_enough_nodes(rejected, names, len(rosters), self.min_nodes)
        warnings = [f"left out: {describe_rejected(rejected, names)}"] if rejected else []
        warnings += [
            f"node {names[node]} claims more than half of all utterances, and updates are "
            "weighted by them"
            for node in dominant_nodes(rosters)
        ]
        for line in warnings:
            console.print(line, style="bold red", highlight=False, markup=False, soft_wrap=True)
        return merge_rosters(rosters)

    def _ask(self, nodes: Sequence[int]) -> tuple[dict[int, str], dict[int, dict[str, Any]]]:
        """Return the nodes without a usable roster, with the reason, and the other rosters."""
        sent = [(Message(RecordDict(), node, "query"), (node,)) for node in nodes]
        messages = [message for message, _ in sent]
        replies = self.grid.send_and_receive(messages, timeout=ANSWER_SECONDS)
        rejected = dict.fromkeys(nodes, f"no answer in {ANSWER_SECONDS:.0f} s")
        rosters = {}
        for reply, (node,) in match(replies, sent, Counter()):
            del rejected[node]
            if reply.has_error():
                rejected[node] = f"{error_text(reply)}; is it a fedser-node?"
                continue
            try:
                rosters[node] = parse_roster(_roster_text(reply.content))
            except BadRoster as error:
                rejected[node] = str(error)
        return rejected, rosters


def _roster_text(content: RecordDict) -> str:
    """Return the JSON text of a roster in a reply; empty if there is none."""
    try:
        return str(content.config_records["roster"]["json"])
    except LookupError:
        return ""
