"""Secure aggregation over Flower's messages: two steps before training, and two after it.

Before it, nodes send keys and sealed shares; with the request to train, each gets the shares for
its clients. After it, nodes sign the list of the clients whose updates arrived, and send the shares
that open the sum. A client that misses a step has vanished.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedser.client.messages import (
    BUNDLES,
    CLIENTS,
    SEALED,
    SHARES,
    SIGNATURES,
    Columns,
    from_table,
    to_bundles,
    to_session,
    to_table,
)
from fedser.client.privacy.distributed import Integers
from fedser.client.secure_aggregation.keys import KeyBundle
from fedser.client.secure_aggregation.session import Session
from fedser.server.strategy.replies import Share, match
from fedser.server.strategy.secure_sum import SecureSum, remove_masks

Assigned = Sequence[tuple[int, Share]]
"""Nodes, and the clients of the cohort that each has."""

Row = tuple[Any, ...]


class SecureAggregation:
    """The secure sums of a federation, one per round.

    Parameters
    ----------
    session : callable
        Maps a round to its session.
    timeout : float
        Seconds to wait for the replies of a step.
    """

    def __init__(self, session: Callable[[int], Session], timeout: float) -> None:
        self._session, self._timeout = session, timeout
        self._sum: SecureSum

    def begin(self, server_round: int, grid: Grid, assigned: Assigned, threads: int) -> Assigned:
        """Collect keys and shares, and return the clients that sent both.

        Raises
        ------
        Refused
            If too few are left.
        """
        self._grid, self._threads, self._round = grid, threads, server_round
        self._node_of = {client: node for node, share in assigned for client in share}
        self._sum = SecureSum(self._session(server_round))
        everybody = sorted(self._node_of)
        found = {row[0]: KeyBundle(*row) for row in self._ask("advertise", BUNDLES, everybody)}
        name = self._sum.session.digest
        keys = [found[c] for c in sorted(found) if found[c].signed(name) and found[c].usable]
        self._sum.set_keys(keys)
        clients = [bundle.client for bundle in keys]
        sealed = self._ask("share", SEALED, clients, bundles=to_bundles(keys))
        self._sum.set_shares([(sender, receiver, text) for sender, receiver, text in sealed])
        members = set(self._sum.members)
        return [(node, tuple(c for c in share if c in members)) for node, share in assigned]

    def records(self, share: Share) -> dict[str, ConfigRecord]:
        """Return what a node needs besides the request to train."""
        return {
            "session": to_session(self._sum.session),
            "members": to_table(CLIENTS, ((c,) for c in self._sum.members)),
            "sealed": to_table(SEALED, self._sum.sealed_for(share)),
        }

    def unmask(self, total: Integers, survivors: Sequence[int]) -> None:
        """Remove the masks from the sum of the survivors' integers, in place.

        Raises
        ------
        Refused
            If too few clients confirm the sum, or if secrets cannot be found.
        """
        names = to_table(CLIENTS, ((c,) for c in survivors))
        signatures: dict[int, bytes] = dict(
            self._ask("confirm", SIGNATURES, survivors, survivors=names)
        )
        confirmed = to_table(SIGNATURES, signatures.items())
        revealed = self._ask("unmask", SHARES, sorted(signatures), signatures=confirmed)
        masks = self._sum.masks(survivors, [(h, o, kind, s) for h, o, kind, s in revealed])
        remove_masks(total, masks, self._threads)

    def _ask(
        self, step: str, columns: Columns, clients: Sequence[int], **records: ConfigRecord
    ) -> list[Row]:
        """Ask the nodes of some clients for a step, and return the rows of their replies.

        Each row starts with a client of the node that sent it; other rows are ignored.
        """
        self._sum.session.check_enough(len(clients))
        shares: dict[int, list[int]] = {}
        for client in clients:
            shares.setdefault(self._node_of[client], []).append(client)
        sent = []
        for node, share in shares.items():
            content = RecordDict({"session": to_session(self._sum.session), **records})
            content["clients"] = to_table(CLIENTS, ((c,) for c in share))
            message = Message(content, node, f"query.{step}", group_id=str(self._round))
            sent.append((message, tuple(share)))
        messages = [message for message, _ in sent]
        replies = self._grid.send_and_receive(messages, timeout=self._timeout)
        return [
            row
            for reply, share in match(replies, sent, Counter())
            for row in _rows(reply, columns)
            if row[0] in share
        ]


def _rows(reply: Message, columns: Columns) -> list[Row]:
    """Return the rows of the only table in a reply; none if it is an error or something else."""
    if reply.has_error():
        return []
    try:
        (record,) = reply.content.config_records.values()
        return from_table(columns, record)
    except ValueError:
        return []
