"""Federated averaging with a tap: the server sees every client's own update.

FedAvg (McMahan et al., 2017) and FedSGD differ here only in what clients send (weight
differences or gradients) and in the server's step, so one strategy serves both.
"""

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from rich.console import Console

from fedser.client.corpora.base import EMOTIONS
from fedser.client.messages import from_record, to_record
from fedser.client.training.request import TrainRequest
from fedser.common.arrays import Arrays, Floats
from fedser.common.buffers import borrow
from fedser.common.console import plain
from fedser.common.errors import Suspended
from fedser.common.threads import spread
from fedser.server.federation.federation import RoundSummary
from fedser.server.federation.remote_clients import RemoteClients
from fedser.server.federation.scores import Scores, scores_of
from fedser.server.grids.local import threads_of
from fedser.server.strategy.aggregate import Aggregate, Received, rechunk, update_norms
from fedser.server.strategy.limits import UpdateLimit
from fedser.server.strategy.replies import (
    TABLES,
    Refused,
    Share,
    match,
    read_evaluation,
    read_reply,
    reason_of,
)
from fedser.server.transcript.transcript import RecordedUpdates

CHUNK = 16
"""Updates that are summed at a time, at most."""

CLIENT_APP_RAISED = 2
"""Flower's error code of a ClientApp that failed before it had an update to send."""

POLL_SECONDS = 0.1
"""Between two looks for nodes."""

FRUITLESS = 3
"""Rounds in a row that asked clients and got no update of use, after which a run is suspended."""

NAMED = 3
"""Refused clients of a round that are named, at most."""

Accepted = tuple[Received, list[float]]
"""Updates, and the losses that came with them; none where these are withheld."""

console = Console(stderr=True)


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
    patience : float
        Seconds to wait for them.
    remote : RemoteClients, optional
        Clients whose data nodes hold; else any node can train anyone.
    limit : UpdateLimit, optional
        Updates that are larger are refused, and their clients named.

    Attributes
    ----------
    last_round : RoundSummary
        Figures of the last round.
    last_released : list of int
        Clients whose update may have left its device in it.
    scores : Future of Scores, or None
        Will hold what nodes find of the model that it left, when they are asked next; None where
        they hold no data.
    """

    def __init__(
        self,
        cohort: Callable[[int], list[int]],
        request: Callable[[int, tuple[int, ...]], TrainRequest],
        aggregate: Callable[[int, Sequence[Received], Arrays], Aggregate],
        server_step: float,
        held: Sequence[int],
        tap: Callable[[int, dict[str, Floats], Sequence[RecordedUpdates]], None],
        rounds_done: int = 0,
        min_clients: int = 1,
        patience: float = 120.0,
        remote: RemoteClients | None = None,
        limit: UpdateLimit | None = None,
    ) -> None:
        self._cohort, self._request, self._rounds_done = cohort, request, rounds_done
        self._aggregate, self._server_step = aggregate, server_step
        self._held, self._tap, self._remote, self._limit = held, tap, remote, limit
        self._min_clients, self._patience, self._fruitless = min_clients, patience, 0
        self._rejections: Counter[str] = Counter()
        self.scores: Future[Scores] | None = None
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
        hosts = {node: str(node) for node in self._remote.hosts} if self._remote else None
        nodes = wait_for_nodes(grid, self._min_clients, self._patience, hosts)
        self._global = from_record(arrays)
        self._asked = self._cohort(server_round)
        self._chunk = chunk_size(len(self._asked))
        self._mechanism = self._request(server_round, ()).mechanism
        self._threads = threads_of(grid)
        self._sent = [
            (self._message(server_round, arrays, node, share), share)
            for node, share in self._deal(nodes)
        ]
        return [message for message, _ in self._sent]

    def evaluate(self, server_round: int, model: Arrays, grid: Grid, timeout: float) -> None:
        """Have nodes evaluate the model that a round would start from, if none knows it yet."""
        if self._remote is None or self.scores is None:
            return
        arrays = to_record(model)
        sent = [(self._message(server_round, arrays, n, ()), ()) for n in self._remote.hosts]
        replies = grid.send_and_receive([message for message, _ in sent], timeout=timeout)
        self._hear(match(replies, sent, self._rejections))

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
        self._rejections = Counter()
        answered = match(replies, self._sent, self._rejections)
        self._hear(answered)
        # An update that is refused or late has left its device all the same.
        unsent = {
            client
            for reply, share in answered
            if reply.has_error() and reply.error.code == CLIENT_APP_RAISED
            for client in share
        }
        self.last_released = [client for client in self._asked if client not in unsent]
        accepted = [
            part for reply, share in answered for part in self._accept(server_round, reply, share)
        ]
        accepted = self._refuse_large(server_round, accepted)
        received = [part for part, _ in accepted]
        losses = [loss for _, heard in accepted for loss in heard]
        if self._remote:
            received = rechunk(received, self._chunk)
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
        self.scores = Future() if self._remote else None
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
        if self._remote:
            request = replace(request, hosting=self._remote.hosts[node])
        config = ConfigRecord({"request": request.to_json()})
        content = RecordDict({"arrays": arrays, "config": config})
        return Message(content, node, "train", group_id=str(server_round))

    def _accept(self, server_round: int, reply: Message, share: Share) -> list[Accepted]:
        """Return what can be used of a reply, chunk by chunk."""
        if not share:  # it was to evaluate alone
            return []
        if reply.has_error():
            self._rejections["failed"] += len(share)
            return []
        try:
            answer = read_reply(
                reply.content, share, self._global, self._mechanism.metrics, self._held
            )
        except Refused as error:
            self._rejections[str(error)] += len(share)
            return []
        self._rejections.update(answer.refused.values())
        client = np.array(share, dtype=np.int64)
        usable = ~np.isin(np.arange(len(share)), list(answer.refused))
        accepted = []
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
            releases = RecordedUpdates(rounds, client[kept], answer.num_examples[kept], part)
            heard = [answer.losses[row] for row in kept.tolist() if answer.losses]
            accepted.append((Received(releases, norms[good]), heard))
        return accepted

    def _refuse_large(self, server_round: int, accepted: list[Accepted]) -> list[Accepted]:
        """Leave out updates that are larger than an honest one can be, and name their clients."""
        if self._limit is None or not accepted:
            return accepted
        clients = np.concatenate([part.releases.client for part, _ in accepted]).tolist()
        norms = np.concatenate([part.norms for part, _ in accepted])
        refused = self._limit.refused(clients, norms, self._global)
        if not refused:
            return accepted
        self._rejections["size"] += len(refused)
        for row, (limit, why) in list(refused.items())[:NAMED]:
            console.print(
                f"round {server_round}: the update of {self._named(clients[row])} is refused: its "
                f"norm is {norms[row]:.3g}, and {why} {limit:.3g}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        kept, first = [], 0
        for part, heard in accepted:
            good = [row for row in range(len(part.norms)) if first + row not in refused]
            first += len(part.norms)
            kept.append((part.only(good), [heard[row] for row in good if heard]))
        return kept

    def _named(self, client: int) -> str:
        """Return how to call a client in a message."""
        if self._remote is None:
            return f"client {client}"
        hosts = self._remote.hosts.items()
        nodes = [node for node, h in hosts if client in {number for number, *_ in h.clients}]
        return f"client {client} (speaker {self._remote.speakers[client]}, node {nodes[0]})"

    def _hear(self, answered: Sequence[tuple[Message, Share]]) -> None:
        """Add up what nodes tell of the model that they were sent."""
        if self._remote is None:
            return
        total = {name: np.zeros((len(EMOTIONS), len(EMOTIONS)), np.int64) for name in TABLES}
        silent = len(self._remote.hosts)
        for reply, _ in answered:
            if reply.has_content():
                with suppress(Refused):
                    held = self._remote.evaluated[reply.metadata.src_node_id]
                    tables = read_evaluation(reply.content, held)
                    total = {name: total[name] + tables[name] for name in TABLES}
                    silent -= 1
        self._rejections["evaluation"] += silent
        if self.scores:
            self.scores.set_result(scores_of(total["validation"], total["test"]))

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
        if said := [reason_of(reply) for reply, _ in answered if reply.has_error()]:
            why += f"; the first error: {said[0]}"
        if set(+self._rejections) == {"not_finite"}:
            raise Suspended(
                f"round {server_round}: for {FRUITLESS} rounds all updates held NaN or infinity "
                f"({why}); lower training.learning_rate and start anew"
            )
        raise Suspended(
            f"round {server_round}: for {FRUITLESS} rounds not one update was of use ({why}); mend "
            "the nodes, then go on"
        )

    def _deal(self, nodes: Sequence[int]) -> list[tuple[int, Share]]:
        """Return whom to send to, and which of the cohort's clients each is to train."""
        if self._remote:  # those that train nobody evaluate
            own = {n: {number for number, *_ in h.clients} for n, h in self._remote.hosts.items()}
            return [(n, tuple(c for c in self._asked if c in own[n])) for n in own]
        dealt = zip(nodes, self._shares(len(nodes)), strict=True)
        return [(node, share) for node, share in dealt if share]

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


def wait_for_nodes(
    grid: Grid, least: int, patience: float, names: Mapping[int, str] | None = None
) -> list[int]:
    """Return the grid's nodes in a fixed order, waiting until there are so many.

    Parameters
    ----------
    patience : float
        Seconds to wait.
    names : mapping of int to str, optional
        The nodes that count, and how to call them; without it all do.

    Raises
    ------
    Suspended
        If there are not enough by then.
    """
    deadline, shown = time.monotonic() + patience, ""
    while True:
        here = sorted(grid.get_node_ids())
        nodes = here if names is None else [node for node in here if node in names]
        if len(nodes) >= least:
            return nodes
        missing = sorted(name for node, name in (names or {}).items() if node not in nodes)
        who = f", missing: {', '.join(missing)}" if missing else ""
        line = f"{len(nodes)} of {least} nodes are here{who}"
        if time.monotonic() > deadline:
            raise Suspended(
                f"{line} after {patience:g} s: start them, or change runtime.min_clients or "
                "runtime.patience, then go on"
            )
        if line != shown:
            console.print(plain(f"waiting for nodes: {line}"))
            shown = line
        time.sleep(POLL_SECONDS)
