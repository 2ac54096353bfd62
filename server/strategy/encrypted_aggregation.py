"""Encrypted sums over Flower's messages: a key before training, and the decryption after it.

A node of the round's cohort makes the key, another one in each round. The server adds ciphertexts
under the public key, and asks this node to decrypt the sum. Without this node no sum of the round
can be opened.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedser.client.encryption.ckks import STEP, PublicKey
from fedser.client.encryption.key_holder import SignedKey
from fedser.client.messages import (
    CLIENTS,
    PARTS,
    PUBLIC_KEY,
    from_table,
    to_session,
    to_table,
)
from fedser.client.secure_aggregation.session import Refused, Session
from fedser.common.arrays import Floats64
from fedser.server.strategy.replies import Rejected, Share, read_sum
from fedser.server.strategy.secure_aggregation import Assigned


class EncryptedAggregation:
    """The encrypted sums of a federation, one per round.

    Parameters
    ----------
    session : callable
        Maps a round to its session.
    timeout : float
        Seconds to wait for the key, and for the decryption.
    """

    def __init__(self, session: Callable[[int], Session], timeout: float) -> None:
        self._session_of, self._timeout = session, timeout
        self.key: PublicKey
        self._session: Session

    def begin(self, server_round: int, grid: Grid, assigned: Assigned, threads: int) -> Assigned:
        """Ask a node for the key of the round, and return the clients, which all take part.

        Raises
        ------
        Refused
            If there are too few clients, or if the node does not give a key.
        """
        self._grid, self._session = grid, self._session_of(server_round)
        self._total: list[Any] = []
        self._session.check_enough(sum(len(share) for _, share in assigned))
        holders = [node for node, share in assigned if share]
        self._holder = holders[server_round % len(holders)]
        reply = self._ask("key")
        try:
            ((content, *signed),) = from_table(PUBLIC_KEY, reply.config_records.get("key"))
            self.key = PublicKey(content)
        except ValueError as error:
            raise Refused(f"node {self._holder} gives no key for the sum ({error})") from error
        self._signed = SignedKey(content, *signed)
        return assigned

    def records(self, share: Share) -> dict[str, ConfigRecord]:
        """Return what a node needs besides the request to train."""
        signed = self._signed
        row = (signed.content, signed.signer, signed.signature)
        return {
            "session": to_session(self._session),
            "key": to_table(PUBLIC_KEY, [row]),
        }

    def add(self, parts: Sequence[bytes], size: int) -> None:
        """Add the ciphertexts of one client's `size` values to the sum of the round.

        Raises
        ------
        ValueError
            If they are no such ciphertexts; nothing is then added.
        """
        loaded = self.key.read(parts, size)
        if not self._total:
            self._total = loaded
            return
        for total, part in zip(self._total, loaded, strict=True):
            total += part

    def open(self, clients: Sequence[int], size: int) -> Floats64:
        """Have the sum of these clients' values decrypted, and return it, (size,).

        Raises
        ------
        Refused
            If there are too few clients, or if the node with the key does not decrypt.
        """
        self._session.check_enough(len(clients))
        content = self._ask(
            "decrypt",
            clients=to_table(CLIENTS, ((c,) for c in clients)),
            parts=to_table(PARTS, ((part.serialize(),) for part in self._total)),
        )
        try:
            return np.multiply(read_sum(content, size), STEP, dtype=np.float64)
        except Rejected as error:
            raise Refused(f"node {self._holder} decrypted something else ({error})") from error

    def _ask(self, step: str, **records: ConfigRecord) -> RecordDict:
        """Ask the node with the key for a step, and return the content of its reply."""
        content = RecordDict({"session": to_session(self._session), **records})
        group = str(self._session.round)
        message = Message(content, self._holder, f"query.{step}", group_id=group)
        for reply in self._grid.send_and_receive([message], timeout=self._timeout):
            if reply.has_content():
                return reply.content
        raise Refused(f"node {self._holder}, which holds the key of the sum, does not answer")
