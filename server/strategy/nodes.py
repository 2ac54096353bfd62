"""Wait for the nodes of a round, and assign the clients of its cohort to them."""

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise

from flwr.serverapp import Grid
from rich.console import Console

from fedser.common.console import plain
from fedser.common.errors import Suspended
from fedser.server.strategy.replies import Share

CHUNK = 16
"""Updates that are summed at a time, at most."""

POLL_SECONDS = 0.1
"""Seconds between two requests for the list of nodes."""

console = Console(stderr=True)


def wait_for_nodes(
    grid: Grid, min_nodes: int, patience: float, names: Mapping[int, str] | None = None
) -> list[int]:
    """Return the grid's nodes in a fixed order, once at least `min_nodes` are connected.

    Parameters
    ----------
    patience : float
        Seconds to wait.
    names : mapping of int to str, optional
        Nodes that count, with the name of each for messages; by default all nodes count.

    Raises
    ------
    Suspended
        If too few nodes are connected after `patience` seconds.
    """
    deadline, shown = time.monotonic() + patience, ""
    while True:
        connected = sorted(grid.get_node_ids())
        nodes = connected if names is None else [node for node in connected if node in names]
        if len(nodes) >= min_nodes:
            return nodes
        missing = sorted(name for node, name in (names or {}).items() if node not in nodes)
        named = f", missing: {', '.join(missing)}" if missing else ""
        line = f"{len(nodes)} of {min_nodes} nodes are here{named}"
        if time.monotonic() > deadline:
            raise Suspended(
                f"{line} after {patience:g} s: start them, or change runtime.min_clients or "
                "runtime.patience, then go on"
            )
        if line != shown:
            console.print(plain(f"waiting for nodes: {line}"))
            shown = line
        time.sleep(POLL_SECONDS)


def chunk_size(cohort: int) -> int:
    """Return how many updates to sum at a time for a cohort of this many clients.

    A cohort is an even number of equal chunks, as far as its size allows. The chunk size does not
    depend on the number of nodes, so the sum does not depend on it either.
    """
    return max(1, -(-cohort // (2 * -(-cohort // (2 * CHUNK)) or 1)))


def share_cohort(cohort: Sequence[int], num_nodes: int) -> list[Share]:
    """Divide a cohort among nodes in whole chunks; the chunks are the same for any `num_nodes`."""
    size = chunk_size(len(cohort))
    chunks = [cohort[i : i + size] for i in range(0, len(cohort), size)]
    cuts = [len(chunks) * node // num_nodes for node in range(num_nodes + 1)]
    return [tuple(c for chunk in chunks[i:j] for c in chunk) for i, j in pairwise(cuts)]
