"""Federated averaging with a tap: the server sees every client's own update.

FedAvg (McMahan et al., 2017) and FedSGD differ here only in what clients send (weight
differences or gradients) and in the server's step, so one strategy serves both.
"""

import math
import time
from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from client.mechanism import Arrays
from client.request import TrainRequest
from client.wire import from_record, to_record
from server.aggregate import Aggregate
from server.federation import RoundSummary
from server.transcript import Releases

Floats = npt.NDArray[np.float32]

CLIENT_APP_RAISED = 2
"""Flower's error code of a ClientApp that failed before it had an update to send."""


class TappedAveraging(Strategy):
    """Aggregate the clients' updates as the privacy plan says, and record each.

    Parameters
    ----------
    cohort : callable
        Round to partition ids, ascending.
    request : callable
        Round and partition ids to what a node is asked.
    aggregate : callable
        Round, its releases and the model they started from to what the server makes of them.
    server_step : float
        Factor on the mean update: 1 for FedAvg, minus the learning rate for FedSGD.
    tap : callable
        Receives the round's model and releases, as the server sees them, before they are
        aggregated.
    rounds_done : int
        Rounds before this start: Flower counts from 1 again.

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
        aggregate: Callable[[int, Releases, Arrays], Aggregate],
        server_step: float,
        tap: Callable[[int, dict[str, Floats], Releases], None],
        rounds_done: int = 0,
    ) -> None:
        self._cohort, self._request, self._rounds_done = cohort, request, rounds_done
        self._aggregate, self._server_step, self._tap = aggregate, server_step, tap
        self.last_round: RoundSummary
        self.last_released: list[int]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask each node for the cohort's clients that it hosts."""
        server_round += self._rounds_done
        self._global = from_record(arrays)
        self._asked = self._cohort(server_round)
        self._mechanism = self._request(server_round, ()).mechanism
        nodes = wait_for_nodes(grid)
        shares = [tuple(c for c in self._asked if c % len(nodes) == i) for i in range(len(nodes))]
        self._sent = [
            (self._message(server_round, arrays, node, share), share)
            for node, share in zip(nodes, shares, strict=True)
            if share
        ]
        return [message for message, _ in self._sent]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Tap the accepted updates and take the server's step.

        Clients are sorted before summing, so that the order of arrival does not show in the
        result.
        """
        server_round += self._rounds_done
        replies = list(replies)
        _raise_if_all_failed(server_round, replies)
        # The grid has filled in the ids of the messages it sent.
        share_of = {m.metadata.message_id: share for m, share in self._sent}
        answered = [
            (reply, share)
            for reply in replies
            if (share := share_of.pop(reply.metadata.reply_to_message_id, None))
        ]
        # An update that is refused or late has left its device all the same.
        unsent = {
            client
            for reply, share in answered
            if reply.has_error() and reply.error.code == CLIENT_APP_RAISED
            for client in share
        }
        self.last_released = [client for client in self._asked if client not in unsent]
        accepted = [
            answer
            for reply, share in answered
            if (answer := self._accept(server_round, reply, share))
        ]
        losses = [loss for _, loss in accepted if loss is not None]
        releases = _concatenate(server_round, [r for r, _ in accepted], self._global)
        self._tap(server_round, self._global, releases)
        aggregate = self._aggregate(server_round, releases, self._global)
        updated = {
            name: start + np.float32(self._server_step) * aggregate.mean.get(name, np.float32(0))
            for name, start in self._global.items()
        }
        self.last_round = self._summary(releases, losses, aggregate)
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

    def _message(
        self, server_round: int, arrays: ArrayRecord, node: int, share: tuple[int, ...]
    ) -> Message:
        request = ConfigRecord({"request": self._request(server_round, share).to_json()})
        content = RecordDict({"arrays": arrays, "config": request})
        return Message(content, node, "train", group_id=str(server_round))

    def _accept(
        self, server_round: int, reply: Message, share: tuple[int, ...]
    ) -> tuple[Releases, Floats | None] | None:
        """Return a reply's releases and losses, or None if it cannot be used.

        A reply is refused whole where its form is wrong; a client whose update is not finite
        is left out alone.
        """
        if reply.has_error():
            return None
        try:
            arrays = from_record(reply.content.array_records["arrays"])
            metrics = reply.content.metric_records["metrics"]
            client = np.array(metrics["clients"], dtype=np.int64)
            # Where counts are withheld, every client weighs the same.
            counted = "num_examples" in self._mechanism.metrics
            sizes = np.array(metrics["num_examples"] if counted else [1] * len(client), np.int64)
            loss = np.array(metrics["loss"], dtype=np.float32) if "loss" in metrics else None
        except (KeyError, TypeError, ValueError):
            return None
        shapes = {name: (len(client), *array.shape) for name, array in self._global.items()}
        if (
            {name: array.shape for name, array in arrays.items()} != shapes
            or client.tolist() != list(share)
            or len(sizes) != len(client)
            or (sizes < 1).any()
        ):
            return None
        finite = np.all(
            [np.isfinite(a.reshape(len(client), -1)).all(axis=1) for a in arrays.values()], axis=0
        )
        rounds = np.full(int(finite.sum()), server_round)
        kept = Releases(
            rounds, client[finite], sizes[finite], {n: a[finite] for n, a in arrays.items()}
        )
        return kept, None if loss is None else loss[finite]

    def _summary(
        self, releases: Releases, losses: list[Floats], aggregate: Aggregate
    ) -> RoundSummary:
        norms = aggregate.norms
        return RoundSummary(
            train_loss=float(np.concatenate(losses).mean()) if losses else math.nan,
            update_norm_mean=float(norms.mean()) if len(releases) else math.nan,
            update_norm_max=float(norms.max()) if len(releases) else math.nan,
            noise_stddev=aggregate.noise_stddev,
            clip_fraction=aggregate.clip_fraction,
            clipping_norm=aggregate.clipping_norm,
            clients=len(releases),
            rejected=len(self._asked) - len(releases),
        )


def _raise_if_all_failed(server_round: int, replies: list[Message]) -> None:
    """Stop a run in which no node works, rather than count empty rounds to the end."""
    if replies and all(reply.has_error() for reply in replies):
        raise RuntimeError(f"round {server_round}: every node failed: {replies[0].error.reason}")


def wait_for_nodes(grid: Grid, patience: float = 120.0) -> list[int]:
    """Return the grid's nodes in a fixed order, waiting for the first to register.

    Raises
    ------
    TimeoutError
        If none has after `patience` seconds.
    """
    deadline = time.monotonic() + patience
    while not (nodes := sorted(grid.get_node_ids())):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no node registered within {patience:.0f} s")
        time.sleep(0.1)
    return nodes


def _concatenate(server_round: int, parts: list[Releases], like: dict[str, Floats]) -> Releases:
    """Join the nodes' releases, sorted by client."""
    if not parts:
        none = np.zeros(0, dtype=np.int64)
        return Releases(none, none, none, {n: a[None][:0] for n, a in like.items()})
    client = np.concatenate([p.client for p in parts])
    order = np.argsort(client)
    sizes = np.concatenate([p.num_examples for p in parts])
    arrays = {n: np.concatenate([p.arrays[n] for p in parts])[order] for n in like}
    return Releases(np.full(len(client), server_round), client[order], sizes[order], arrays)
