"""Federated averaging with a tap: the server sees the update of every single client.

FedAvg (McMahan et al., 2017) and FedSGD differ here in two things only: what clients send (weight
differences or gradients), and the factor of the server's step. One strategy serves both.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from rich.console import Console

from fedser.client.corpora.base import EMOTIONS
from fedser.client.messages import from_record, to_record
from fedser.client.privacy.distributed import DistributedDP, Integers, decoded
from fedser.client.privacy.pruning import packed, scatter
from fedser.client.secure_aggregation.session import REFUSAL, Refused
from fedser.client.training.request import TrainRequest
from fedser.common.arrays import Arrays, Floats
from fedser.common.buffers import borrow
from fedser.common.errors import Suspended
from fedser.common.threads import spread
from fedser.server.federation.federation import RoundSummary
from fedser.server.federation.remote_clients import RemoteClients
from fedser.server.federation.scores import ModelScores, scores_of
from fedser.server.grids.local import threads_of
from fedser.server.strategy.aggregate import Aggregate, Received, rechunk, update_norms
from fedser.server.strategy.encrypted_aggregation import EncryptedAggregation
from fedser.server.strategy.limits import UpdateLimit
from fedser.server.strategy.nodes import chunk_size, share_cohort, wait_for_nodes
from fedser.server.strategy.pruning import Pruning
from fedser.server.strategy.replies import (
    TABLES,
    CheckedReply,
    Rejected,
    Share,
    error_text,
    match,
    read_encrypted_reply,
    read_evaluation,
    read_reply,
)
from fedser.server.strategy.secure_aggregation import Assigned, SecureAggregation
from fedser.server.transcript.transcript import RecordedUpdates

CLIENT_APP_RAISED = 2
"""Flower's error code of a ClientApp that failed before it had an update to send."""

MAX_USELESS_ROUNDS = 3
"""A run is suspended after this many rounds in a row in which no update could be used."""

MAX_NAMED = 3
"""Clients of a round whose update is too large that are named, at most."""

Accepted = tuple[Received, list[float]]
"""Updates, and their losses; no losses if these are withheld."""

console = Console(stderr=True)


class TappedAveraging(Strategy):
    """Record the clients' updates, and aggregate them as the privacy plan says.

    Parameters
    ----------
    cohort : callable
        Maps a round to partition ids, ascending.
    request : callable
        Maps a round and partition ids to the request for a node.
    aggregate : callable
        Maps a round, the received updates and the model they started from to an `Aggregate`.
    server_step : float
        Factor on the mean update: 1 for FedAvg, minus the learning rate for FedSGD.
    client_sizes : sequence of int
        Training utterances of each client: an update that claims more is rejected.
    tap : callable
        Takes a round, its model and its updates as the server sees them, before they are
        aggregated.
    rounds_done : int
        Rounds that were run before: Flower counts from 1 after each start.
    min_clients : int
        Nodes that must be connected before a round starts.
    patience : float
        Seconds to wait for these nodes.
    remote : RemoteClients, optional
        Clients of nodes that hold their own data; by default any node can train any client.
    limit : UpdateLimit, optional
        Limit above which updates are rejected; their clients are named.
    secure : SecureAggregation or EncryptedAggregation, optional
        Sums the updates of clients that nobody sees.
    pruning : Pruning, optional
        Chooses the coordinates that are sent; by default all.

    Attributes
    ----------
    last_round : RoundSummary
        Figures of the last round.
    last_released : list of int
        Clients with an update that may have left the device in the last round.
    scores : Future of ModelScores, or None
        Scores of the last round's model. Nodes report them in the next round. None if no node
        holds data.
    """

    def __init__(
        self,
        cohort: Callable[[int], list[int]],
        request: Callable[[int, tuple[int, ...]], TrainRequest],
        aggregate: Callable[[int, Sequence[Received], Arrays], Aggregate],
        server_step: float,
        client_sizes: Sequence[int],
        tap: Callable[[int, dict[str, Floats], Sequence[RecordedUpdates]], None],
        rounds_done: int = 0,
        min_clients: int = 1,
        patience: float = 120.0,
        remote: RemoteClients | None = None,
        limit: UpdateLimit | None = None,
        secure: SecureAggregation | EncryptedAggregation | None = None,
        pruning: Pruning | None = None,
    ) -> None:
        self._draw_cohort, self._request, self._rounds_done = cohort, request, rounds_done
        self._aggregate, self._server_step = aggregate, server_step
        self._client_sizes, self._tap, self._remote, self._limit = client_sizes, tap, remote, limit
        self._secure, self._pruning = secure, pruning or Pruning(kept=1.0, refresh=1)
        self._encrypted = secure if isinstance(secure, EncryptedAggregation) else None
        self._min_clients, self._patience, self._useless_rounds = min_clients, patience, 0
        self._rejections: Counter[str] = Counter()
        self.scores: Future[ModelScores] | None = None
        self.last_round: RoundSummary
        self.last_released: list[int]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask each node for its clients of the cohort.

        Raises
        ------
        Suspended
            If too few nodes are connected after `patience` seconds.
        """
        server_round += self._rounds_done
        names = {node: str(node) for node in self._remote.hosts} if self._remote else None
        nodes = wait_for_nodes(grid, self._min_clients, self._patience, names)
        self._model = from_record(arrays)
        self._cohort = self._draw_cohort(server_round)
        self._chunk = chunk_size(len(self._cohort))
        mechanism = self._mechanism = self._request(server_round, ()).mechanism
        self._distributed = mechanism if isinstance(mechanism, DistributedDP) else None
        self._threads = threads_of(grid)
        self._pruning.begin(server_round)
        assigned: Assigned = self._assign_clients(nodes)
        if self._secure:
            assigned = self._members(self._secure, server_round, grid, assigned)
        self._sent = [
            (self._message(server_round, arrays, node, share), share) for node, share in assigned
        ]
        return [message for message, _ in self._sent]

    def evaluate(self, server_round: int, model: Arrays, grid: Grid, timeout: float) -> None:
        """Have the nodes evaluate the model of the last round, unless no node holds data."""
        if self._remote is None or self.scores is None:
            return
        arrays = to_record(model)
        sent = [(self._message(server_round, arrays, n, ()), ()) for n in self._remote.hosts]
        replies = grid.send_and_receive([message for message, _ in sent], timeout=timeout)
        self._add_evaluations(match(replies, sent, self._rejections))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Tap the accepted updates and take the server's step.

        Updates are summed in the order of clients, so the result does not depend on the order of
        arrival.

        Raises
        ------
        Suspended
            If no update could be used for `MAX_USELESS_ROUNDS` rounds.
        """
        server_round += self._rounds_done
        self._rejections = Counter(
            vanished=len(self._cohort) - sum(len(share) for _, share in self._sent)
        )
        answered = match(replies, self._sent, self._rejections)
        self._add_evaluations(answered)
        self.last_released = self._released(answered)
        received, losses = self._accepted(server_round, answered)
        self._tap(server_round, self._model, [part.releases for part in received])
        aggregate = self._aggregated(server_round, received)
        self._pruning.end(aggregate.mean)
        self._suspend_if_useless(server_round, len(aggregate.norms), answered)
        for reply, _ in answered:  # Flower keeps the replies until the next round's have come
            if reply.has_content():
                reply.content.clear()
        updated = {
            name: _moved(start, self._server_step, aggregate.mean.get(name))
            for name, start in self._model.items()
        }
        self.last_round = self._summary(losses, aggregate)
        self.scores = Future() if self._remote else None
        return to_record(updated), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send no message: nodes evaluate a model when they are asked to train it."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return None: there are no replies."""
        return None

    def summary(self) -> None:
        """Print nothing: the run prints its own configuration."""

    def _members(
        self,
        secure: SecureAggregation | EncryptedAggregation,
        server_round: int,
        grid: Grid,
        assigned: Assigned,
    ) -> Assigned:
        """Return the clients that take part in the secure sum; none if there are too few."""
        try:
            return secure.begin(server_round, grid, assigned, self._threads)
        except Refused as error:
            self._say(server_round, str(error))
            return [(node, ()) for node, _ in assigned] if self._remote else []

    def _aggregated(self, server_round: int, received: Sequence[Received]) -> Aggregate:
        """Aggregate the updates; the model does not change if their sum cannot be opened."""
        nothing = Aggregate({}, np.zeros(0), math.nan, math.nan)
        if self._secure and not any(share for _, share in self._sent):
            return nothing  # `_members` has said why
        try:
            return self._aggregate(server_round, received, self._model)
        except Refused as error:
            self._say(server_round, str(error))
            self._rejections["unopened"] += sum(len(part.norms) for part in received)
            return nothing

    def _say(self, server_round: int, text: str) -> None:
        console.print(
            f"round {server_round}: {text}; the model does not change",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def _assign_clients(self, nodes: Sequence[int]) -> list[tuple[int, Share]]:
        """Return the nodes to send to, and the clients of the cohort that each must train."""
        if self._remote:  # a node that trains no client still evaluates the model
            own = {n: {number for number, *_ in h.clients} for n, h in self._remote.hosts.items()}
            return [(n, tuple(c for c in self._cohort if c in own[n])) for n in own]
        assigned = zip(nodes, share_cohort(self._cohort, len(nodes)), strict=True)
        return [(node, share) for node, share in assigned if share]

    def _message(self, server_round: int, arrays: ArrayRecord, node: int, share: Share) -> Message:
        request = self._request(server_round, share)
        if self._remote:
            request = replace(request, hosting=self._remote.hosts[node])
        config = ConfigRecord({"request": request.to_json()})
        content = RecordDict({"arrays": arrays, "config": config})
        if self._remote and (public := self._remote.public):
            content["public"] = to_record(public.projection)
        if self._secure and share:
            content.update(self._secure.records(share))
        if self._pruning.sent is not None and share:
            content["support"] = to_record(packed(self._pruning.sent))
        return Message(content, node, "train", group_id=str(server_round))

    def _released(self, answered: Sequence[tuple[Message, Share]]) -> list[int]:
        """Return the clients with an update that may have left the device."""
        # An update that is rejected or late has left its device all the same.
        unsent = {
            client
            for reply, share in answered
            if reply.has_error() and reply.error.code == CLIENT_APP_RAISED
            for client in share
        }
        asked = {client for _, share in self._sent for client in share}
        return [client for client in self._cohort if client in asked - unsent]

    def _accepted(
        self, server_round: int, answered: Sequence[tuple[Message, Share]]
    ) -> tuple[list[Received], list[float]]:
        """Return the updates of a round that can be used, in chunks, and their losses."""
        split = self._split if self._encrypted is None else self._split_encrypted
        accepted = [
            part
            for reply, share in answered
            if (checked := self._read(reply, share))
            for part in split(server_round, share, checked)
        ]
        accepted = self._reject_large(server_round, accepted)
        received = [part for part, _ in accepted]
        if self._remote:
            received = rechunk(received, self._chunk)
        return received, [loss for _, losses in accepted for loss in losses]

    def _read(self, reply: Message, share: Share) -> CheckedReply | None:
        """Check a reply, and count why it cannot be used at all."""
        if not share:  # the node was asked to evaluate only
            return None
        if reply.has_error():
            reason = "refused" if REFUSAL in (reply.error.reason or "") else "failed"
            self._rejections[reason] += len(share)
            return None
        try:
            checked = self._checked(reply.content, share)
        except Rejected as error:
            self._rejections[str(error)] += len(share)
            return None
        self._rejections.update(checked.rejected.values())
        return checked

    def _checked(self, content: RecordDict, share: Share) -> CheckedReply:
        """Check the content of a reply, and add the updates of an encrypted one to the sum."""
        metrics, like = self._mechanism.metrics, self._pruning.like(self._model)
        if self._encrypted is None:
            dtype = "float32" if self._distributed is None else "uint32"
            checked = read_reply(content, share, like, metrics, self._client_sizes, dtype)
            updates = scatter(checked.arrays, self._pruning.sent, self._model)
            return replace(checked, arrays=updates)
        checked, parts = read_encrypted_reply(content, share, metrics, self._client_sizes)
        size, rejected = sum(array.size for array in like.values()), dict(checked.rejected)
        for row in sorted(set(range(len(share))) - set(rejected)):
            try:
                self._encrypted.add(parts[row], size)
            except ValueError:
                rejected[row] = "ciphertext"
        return replace(checked, rejected=rejected)

    def _split(self, server_round: int, share: Share, checked: CheckedReply) -> list[Accepted]:
        """Cut a reply into chunks, and leave out updates that are rejected or not finite."""
        client, size = np.array(share, dtype=np.int64), self._chunk
        usable = ~np.isin(np.arange(len(share)), list(checked.rejected))
        firsts = range(0, len(share), size)
        parts = [{n: a[i : i + size] for n, a in checked.arrays.items()} for i in firsts]
        accepted: list[Accepted] = []
        integers: list[dict[str, Integers]] = [{} for _ in parts]
        if self._distributed is not None:
            step = self._distributed.step
            integers = [{n: a.view(np.uint32) for n, a in part.items()} for part in parts]
            parts = [{n: decoded(a, step) for n, a in part.items()} for part in integers]
        norms_of_parts = spread(self._threads, update_norms, parts)
        for first, part, encoded, norms in zip(
            firsts, parts, integers, norms_of_parts, strict=True
        ):
            good = usable[first : first + size]
            finite = np.isfinite(norms)
            self._rejections["not_finite"] += int((good & ~finite).sum())
            good = good & finite
            if not good.all():
                part = {name: array[good] for name, array in part.items()}
            rows = first + np.flatnonzero(good)
            rounds = np.full(len(rows), server_round)
            releases = RecordedUpdates(rounds, client[rows], checked.num_examples[rows], part)
            losses = [checked.losses[row] for row in rows.tolist() if checked.losses]
            kept = {name: array[good] for name, array in encoded.items()}
            accepted.append((Received(releases, norms[good], kept), losses))
        return accepted

    def _split_encrypted(
        self, server_round: int, share: Share, checked: CheckedReply
    ) -> list[Accepted]:
        """Return who sent an update that is in the sum; nobody sees the update or its norm."""
        rows = [row for row in range(len(share)) if row not in checked.rejected]
        client, rounds = np.array(share, np.int64)[rows], np.full(len(rows), server_round)
        releases = RecordedUpdates(rounds, client, checked.num_examples[rows], {})
        losses = [checked.losses[row] for row in rows if checked.losses]
        return [(Received(releases, np.full(len(rows), math.nan)), losses)]

    def _reject_large(self, server_round: int, accepted: list[Accepted]) -> list[Accepted]:
        """Leave out updates that are larger than an honest one can be, and name their clients."""
        if self._limit is None or not accepted:
            return accepted
        clients = np.concatenate([part.releases.client for part, _ in accepted]).tolist()
        norms = np.concatenate([part.norms for part, _ in accepted])
        too_large = self._limit.too_large(clients, norms, self._model)
        if not too_large:
            return accepted
        self._rejections["size"] += len(too_large)
        for row, (limit, why) in list(too_large.items())[:MAX_NAMED]:
            console.print(
                f"round {server_round}: the update of {self._name(clients[row])} is rejected: its "
                f"norm is {norms[row]:.3g}, and {why} {limit:.3g}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
        kept, first = [], 0
        for part, losses in accepted:
            good = [row for row in range(len(part.norms)) if first + row not in too_large]
            first += len(part.norms)
            kept.append((part.only(good), [losses[row] for row in good if losses]))
        return kept

    def _name(self, client: int) -> str:
        """Return the name of a client in messages."""
        if self._remote is None:
            return f"client {client}"
        hosts = self._remote.hosts.items()
        nodes = [node for node, h in hosts if client in {number for number, *_ in h.clients}]
        return f"client {client} (speaker {self._remote.speakers[client]}, node {nodes[0]})"

    def _add_evaluations(self, answered: Sequence[tuple[Message, Share]]) -> None:
        """Add up the confusion tables that nodes report for the model they were sent."""
        if self._remote is None:
            return
        total = {name: np.zeros((len(EMOTIONS), len(EMOTIONS)), np.int64) for name in TABLES}
        without_tables = len(self._remote.hosts)
        for reply, _ in answered:
            if reply.has_content():
                with suppress(Rejected):
                    num_utterances = self._remote.evaluated[reply.metadata.src_node_id]
                    tables = read_evaluation(reply.content, num_utterances)
                    total = {name: total[name] + tables[name] for name in TABLES}
                    without_tables -= 1
        self._rejections["evaluation"] += without_tables
        if self.scores:
            self.scores.set_result(scores_of(total["validation"], total["test"]))

    def _suspend_if_useless(
        self,
        server_round: int,
        used: int,
        answered: Sequence[tuple[Message, Share]],
    ) -> None:
        """Suspend a run in which no node works: otherwise it would run empty rounds to the end."""
        if not self._cohort:
            return
        self._useless_rounds = 0 if used else self._useless_rounds + 1
        if self._useless_rounds < MAX_USELESS_ROUNDS:
            return
        why = ", ".join(f"{n} {reason}" for reason, n in sorted(self._rejections.items()) if n)
        if errors := [error_text(reply) for reply, _ in answered if reply.has_error()]:
            why += f"; the first error: {errors[0]}"
        if set(+self._rejections) == {"not_finite"}:
            raise Suspended(
                f"round {server_round}: for {MAX_USELESS_ROUNDS} rounds all updates held NaN or "
                f"infinity ({why}); lower training.learning_rate and start anew"
            )
        raise Suspended(
            f"round {server_round}: for {MAX_USELESS_ROUNDS} rounds no update could be used "
            f"({why}); repair the nodes, then go on"
        )

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
            rejected=len(self._cohort) - len(norms),
            rejections={reason: n for reason, n in sorted(self._rejections.items()) if n},
        )


def _moved(start: Floats, step: float, direction: Floats | None) -> Floats:
    """Return new weights; their memory is used again later."""
    moved: Floats = borrow(start.shape, start.dtype)
    np.multiply(0 if direction is None else direction, np.float32(step), out=moved)
    moved += start
    return moved
