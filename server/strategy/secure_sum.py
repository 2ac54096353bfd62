"""The server's part of secure aggregation: collect what clients send, and open the sum.

See `client.secure_aggregation.participant` for the protocol. The server checks what it receives for
its own sake: a wrong key or share could only spoil the sum.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedser.client.secure_aggregation.keys import KeyBook, KeyBundle, mask_seed
from fedser.client.secure_aggregation.masks import Words, add_mask
from fedser.client.secure_aggregation.members import RevealedShare, Sealed
from fedser.client.secure_aggregation.participant import KEY, SEED, sign
from fedser.client.secure_aggregation.session import Refused, Session
from fedser.client.secure_aggregation.sharing import combine
from fedser.common.threads import spread

Mask = tuple[bytes, int]
"""Seed of a mask, and its sign in the sum."""


class SecureSum:
    """What the server knows of one session.

    Attributes
    ----------
    members : list of int
        Clients that have sent shares; their vectors may enter the sum.

    Raises
    ------
    Refused
        By each step, if too few clients are left.
    """

    def __init__(self, session: Session) -> None:
        self.session, self.members = session, list[int]()
        self._sealed: dict[int, list[Sealed]] = {}

    def set_keys(self, bundles: Sequence[KeyBundle]) -> None:
        """Take the clients' keys, which must be signed and usable."""
        self._book = KeyBook.of(self.session, bundles, None)

    def set_shares(self, sealed: Iterable[Sealed]) -> None:
        """Take the sealed shares; a client that did not send all of its shares has vanished."""
        sent: dict[int, dict[int, bytes]] = defaultdict(dict)
        for sender, receiver, content in sealed:
            sent[sender][receiver] = content
        neighbours = self._book.graph.neighbours
        self.members = sorted(c for c in self._book.bundles if set(sent[c]) == set(neighbours(c)))
        self.session.check_enough(len(self.members))
        self._sealed = {client: [] for client in self.members}
        for sender in self.members:
            for receiver, content in sent[sender].items():
                if receiver in self._sealed:
                    self._sealed[receiver].append((sender, receiver, content))

    def sealed_for(self, clients: Iterable[int]) -> list[Sealed]:
        """Return the sealed shares that were sent to some clients."""
        return [one for client in clients for one in self._sealed.get(client, [])]

    def masks(self, survivors: Sequence[int], revealed: Iterable[RevealedShare]) -> list[Mask]:
        """Return the masks that are left in the sum of the survivors' vectors.

        Raises
        ------
        Refused
            If a secret cannot be found, because shares are missing or wrong.
        """
        shares: dict[tuple[str, int], dict[int, bytes]] = defaultdict(dict)
        for holder, owner, kind, share in revealed:
            shares[kind, owner][holder] = share
        masks = [(self._secret(shares[SEED, client], client), 1) for client in survivors]
        for client in sorted(set(self.members) - set(survivors)):
            key = X25519PrivateKey.from_private_bytes(self._secret(shares[KEY, client], client))
            if key.public_key().public_bytes_raw() != self._book.bundles[client].mask_key:
                raise Refused(f"a share of the key of client {client} is wrong")
            partners = (n for n in self._book.graph.neighbours(client) if n in survivors)
            for n in partners:
                seed = mask_seed(self.session.digest, key, self._book.bundles[n].mask_key)
                masks.append((seed, sign(n, client)))
        return masks

    def _secret(self, shares: dict[int, bytes], client: int) -> bytes:
        """Return the secret of a client from the shares that its neighbours hold."""
        graph = self._book.graph
        holders = [n for n in graph.neighbours(client) if n in shares]
        if len(holders) < graph.threshold:
            raise Refused(
                f"{len(holders)} neighbours of client {client} sent shares, which is fewer than "
                f"the {graph.threshold} needed"
            )
        try:
            return combine({n: shares[n] for n in holders[: graph.threshold]})
        except ValueError as error:
            raise Refused(f"client {client}: {error}") from error


def remove_masks(total: Words, masks: Sequence[Mask], threads: int) -> None:
    """Subtract masks from a sum (d,) modulo 2^32, in place."""

    def added(part: Sequence[Mask]) -> Words:
        mask = np.zeros_like(total)
        for seed, mask_sign in part:
            add_mask([mask], seed, mask_sign)
        return mask

    for mask in spread(threads, added, [masks[i::threads] for i in range(threads)]):
        total -= mask
