"""Federated averaging with a tap: the server sees every client's own update.

FedAvg (McMahan et al., 2017) and FedSGD differ here only in what clients send (weight
differences or gradients) and in the server's step, so one strategy serves both.
"""

import math
import statistics
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from client.buffers import borrow
from client.errors import Suspended
from client.mechanism import Arrays
from client.request import TrainRequest
from client.threads import spread
from client.wire import from_record, to_record
from server.aggregate import Aggregate, Received, update_norms
from server.federation import RoundSummary
from server.grid import threads_of
from server.replies import Refused, Share, match, read_reply
from server.transcript import Releases

Floats = npt.NDArray[np.float32]

CHUNK = 16
"""Updates that are summed at a time, at most."""

CLIENT_APP_RAISED = 2
"""Flower's error code of a ClientApp that failed before it had an update to send."""

PATIENCE, POLL_SECONDS = 120.0, 0.1
"""How long a round waits for nodes, and how often it looks."""

FRUITLESS = 3
"""Rounds in a row that asked clients and got no update of use, after which a run is suspended."""


class TappedAveraging(Strategy):
    """Aggregate the clients' updates as the privacy plan says, and record each.

    Parameters
    ----------
    cohort : callable
        Round to partition ids, ascending.
    request : callable
        Round and partition ids to what a node is asked.
    aggregate : callable
        Round, what was received and the model they started from to what the server makes of it.
    server_step : float
        Factor on the mean update: 1 for FedAvg, minus the learning rate for FedSGD.
    held : sequence of int
        Utterances of each client: an update that claims more is refused.
    tap : callable
        Receives the round, its model and its releases, as the server sees them, before they
        are aggregated.
    rounds_done : int
        Rounds before this start: Flower counts from 1 again.
    min_clients : int
        Nodes without which no round starts.

    Attributes
    ----------
    last_round : RoundSummary
        Figures of the last round.
    last_released : list of int
        Clients whose update may have left its device in it.
    """

    def __init__(
        self,
        cohort: Callable[[int], list[int]],
        request: Callable[[int, tuple[int, ...]], TrainRequest],
        aggregate: Callable[[int, Sequence[Received], Arrays], Aggregate],
        server_step: float,
        held: Sequence[int],
        tap: Callable[[int, dict[str, Floats], Sequence[Releases]], None],
        rounds_done: int = 0,
        min_clients: int = 1,
    ) -> None:
        self._cohort, self._request, self._rounds_done = cohort, request, rounds_done
        self._aggregate, self._server_step = aggregate, server_step
        self._held, self._tap, self._min_clients = held, tap, min_clients
        self._fruitless = 0
        self.last_round: RoundSummary
        self.last_released: list[int]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask each node for the cohort's clients that it hosts.

        Raises
        ------
        Suspended
            If nodes are missing for long.
        """
        server_round += self._rounds_done
        nodes = wait_for_nodes(grid, self._min_clients)
        self._global = from_record(arrays)
        self._asked = self._cohort(server_round)
        self._chunk = chunk_size(len(self._asked))
        self._mechanism = self._request(server_round, ()).mechanism
        self._threads = threads_of(grid)
        self._sent = [
            (self._message(server_round, arrays, node, share), share)
            for node, share in zip(nodes, self._shares(len(nodes)), strict=True)
            if share
        ]
        return [message for message, _ in self._sent]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Tap the accepted updates and take the server's step.

        They are summed in the order of clients, so that the order of arrival does not show in
        the result.

        Raises
        ------
        Suspended
            If no update was of use for `FRUITLESS` rounds.
        """
        server_round += self._rounds_done
        self._rejections: Counter[str] = Counter()
        answered = match(replies, self._sent, self._rejections)
        # An update that is refused or late has left its device all the same.
        unsent = {
            client
            for reply, share in answered
            if reply.has_error() and reply.error.code == CLIENT_APP_RAISED
            for client in share
        }
        self.last_released = [client for client in self._asked if client not in unsent]
        received, losses = [], []
        for reply, share in answered:
            parts, heard = self._accept(server_round, reply, share)
            received += parts
            losses += heard
        self._check_fruits(server_round, received, answered)
        self._tap(server_round, self._global, [part.releases for part in received])
        aggregate = self._aggregate(server_round, received, self._global)
        for reply, _ in answered:  # Flower holds them until the next round's have come
            if reply.has_content():
                reply.content.clear()
        updated = {
            name: _moved(start, self._server_step, aggregate.mean.get(name))
            for name, start in self._global.items()
        }
        self.last_round = self._summary(losses, aggregate)
        return to_record(updated), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Evaluate on the server alone."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Evaluate on the server alone."""
        return None

    def summary(self) -> None:
        """Say nothing: the run prints its own configuration."""

    def _message(self, server_round: int, arrays: ArrayRecord, node: int, share: Share) -> Message:
        request = self._request(server_round, share)
        config = ConfigRecord({"request": request.to_json()})
        content = RecordDict({"arrays": arrays, "config": config})
        return Message(content, node, "train", group_id=str(server_round))

    def _accept(
        self, server_round: int, reply: Message, share: Share
    ) -> tuple[list[Received], list[float]]:
        """Return what can be used of a reply: its releases, chunk by chunk, and losses."""
        if reply.has_error():
            self._rejections["failed"] += len(share)
            return [], []
        try:
            answer = read_reply(
                reply.content, share, self._global, self._mechanism.metrics, self._held
            )
        except Refused as error:
            self._rejections[str(error)] += len(share)
            return [], []
        self._rejections.update(answer.refused.values())
        client = np.array(share, dtype=np.int64)
        usable = ~np.isin(np.arange(len(share)), list(answer.refused))
        received, heard = [], []
        firsts = range(0, len(share), self._chunk)
        parts = [{n: a[i : i + self._chunk] for n, a in answer.arrays.items()} for i in firsts]
        all_norms = spread(self._threads, update_norms, parts)
        for first, part, norms in zip(firsts, parts, all_norms, strict=True):
            good = usable[first : first + self._chunk]
            finite = np.isfinite(norms)
            self._rejections["not_finite"] += int((good & ~finite).sum())
            good = good & finite
            if not good.all():
                part = {name: array[good] for name, array in part.items()}
            kept = first + np.flatnonzero(good)
            rounds = np.full(len(kept), server_round)
            releases = Releases(rounds, client[kept], answer.num_examples[kept], part)
            received.append(Received(releases, norms[good]))
            heard += [answer.losses[row] for row in kept.tolist() if answer.losses]
        return received, heard

    def _check_fruits(
        self,
        server_round: int,
        received: Sequence[Received],
        answered: Sequence[tuple[Message, Share]],
    ) -> None:
        """Suspend a run in which no node works, rather than count empty rounds to the end."""
        if not self._asked:
            return
        self._fruitless = 0 if any(len(part.norms) for part in received) else self._fruitless + 1
        if self._fruitless < FRUITLESS:
            return
        why = ", ".join(f"{n} {reason}" for reason, n in sorted(self._rejections.items()) if n)
        said = [reply.error.reason or "" for reply, _ in answered if reply.has_error()]
        if said:  # by whoever it was
            shown = "".join(c if c.isprintable() else " " for c in said[0][:1000])
            why += f"; the first error: {textwrap.shorten(shown, 200)}"
        raise Suspended(
            f"round {server_round}: for {FRUITLESS} rounds not one update was of use ({why}); mend "
            "the nodes, then go on"
        )

    def _shares(self, nodes: int) -> list[Share]:
        """Deal the cohort out in whole chunks, which are the same for any number of nodes."""
        asked, size = self._asked, self._chunk
        chunks = [asked[i : i + size] for i in range(0, len(asked), size)]
        cuts = [len(chunks) * node // nodes for node in range(nodes + 1)]
        return [tuple(c for chunk in chunks[i:j] for c in chunk) for i, j in pairwise(cuts)]

    def _summary(self, losses: list[float], aggregate: Aggregate) -> RoundSummary:
        norms = aggregate.norms
        return RoundSummary(
            train_loss=statistics.fmean(losses) if losses else math.nan,
            update_norm_mean=float(norms.mean()) if len(norms) else math.nan,
            update_norm_max=float(norms.max()) if len(norms) else math.nan,
            noise_stddev=aggregate.noise_stddev,
            clip_fraction=aggregate.clip_fraction,
            clipping_norm=aggregate.clipping_norm,
            clients=len(norms),
            rejected=len(self._asked) - len(norms),
            rejections={reason: n for reason, n in sorted(self._rejections.items()) if n},
        )


def _moved(start: Floats, step: float, along: Floats | None) -> Floats:
    """Return new weights in memory that is used again."""
    moved: Floats = borrow(start.shape, start.dtype)
    np.multiply(0 if along is None else along, np.float32(step), out=moved)
    moved += start
    return moved


def chunk_size(cohort: int) -> int:
    """Return how many updates to sum at a time: a cohort is an even number of equal chunks.

    It does not depend on how many nodes there are, and hence neither does the sum.
    """
    return max(1, -(-cohort // (2 * -(-cohort // (2 * CHUNK)) or 1)))


def wait_for_nodes(grid: Grid, least: int) -> list[int]:
    """Return the grid's nodes in a fixed order, waiting until there are so many.

    Raises
    ------
    Suspended
        If there are not after `PATIENCE` seconds.
    """
    deadline = time.monotonic() + PATIENCE
    while len(nodes := sorted(grid.get_node_ids())) < least:
        if time.monotonic() > deadline:
            raise Suspended(
                f"{len(nodes)} node(s) for {PATIENCE:.0f} s, and runtime.min_clients={least}: "
                "start more, then go on"
            )
        time.sleep(POLL_SECONDS)
    return nodes
