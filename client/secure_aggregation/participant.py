"""One client's part of a secure sum, step by step.

The server learns the sum of the clients' vectors modulo 2^32 and nothing else. Each client adds a
mask of its own to its vector, and a mask for each neighbour, which the neighbour subtracts. The
server can remove the own masks of clients that answered, and the masks that clients left behind
that vanished: neighbours send it shares of the seed of a client or of its mask key, never of both.

The steps are `advertise`, `share`, `mask`, `confirm` and `unmask`. A client that is asked for a
step again, or for the steps in another order, refuses.

References
----------
Bonawitz et al. (CCS 2017), figure 4, with signatures against a server that lies; Bell et al.
(CCS 2020).
"""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedser.client.secure_aggregation.keys import (
    Envelope,
    Identity,
    KeyBook,
    KeyBundle,
    mask_seed,
    signed_by,
)
from fedser.client.secure_aggregation.masks import Words, add_mask
from fedser.client.secure_aggregation.session import Refused, Session, hash_of
from fedser.client.secure_aggregation.sharing import SHARE_BYTES, split

SEED, KEY = "seed", "key"
"""What a share belongs to: the seed of a client's own mask, or its mask key."""

Share = tuple[str, bytes]
"""`SEED` or `KEY`, and the share."""


class Participant:
    """The state of one client in one session.

    Parameters
    ----------
    identity : Identity
        Key of the client's node.

    Raises
    ------
    Refused
        By each step, if the server asks for something that the protocol does not allow.
    """

    def __init__(self, client: int, session: Session, identity: Identity) -> None:
        self.client, self.session = client, session
        self._identity = identity
        self._name = session.digest
        self._mask_key, self._share_key = X25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._next = "advertise"

    def advertise(self) -> KeyBundle:
        """Return the client's public keys for this session, signed by its node."""
        self._begin("advertise", "share")
        unsigned = KeyBundle(
            self.client,
            mask_key=self._mask_key.public_key().public_bytes_raw(),
            share_key=self._share_key.public_key().public_bytes_raw(),
            signer=self._identity.public,
        )
        self._own = replace(unsigned, signature=self._identity.sign(unsigned.digest(self._name)))
        return self._own

    def share(self, book: KeyBook) -> dict[int, bytes]:
        """Return sealed shares of the client's secrets for each of its neighbours."""
        self._begin("share", "mask")
        if book.bundles.get(self.client) != self._own:
            raise Refused("the server left out or changed the keys of this client")
        self._book, self._neighbours = book, book.graph.neighbours(self.client)
        self._seed = secrets.token_bytes(32)
        threshold = book.graph.threshold
        of_seed = split(self._seed, threshold, self._neighbours)
        of_key = split(self._mask_key.private_bytes_raw(), threshold, self._neighbours)
        self._envelopes = {
            n: Envelope(self._name, self._share_key, book.bundles[n].share_key)
            for n in self._neighbours
        }
        return {
            n: self._envelopes[n].seal(self.client, n, of_seed[n] + of_key[n])
            for n in self._neighbours
        }

    def mask(
        self, parts: Sequence[Words], sealed: Mapping[int, bytes], members: Sequence[int]
    ) -> None:
        """Add the client's masks to its vector, in place.

        Parameters
        ----------
        parts : sequence of ndarray of uint32, shapes (n,), (m,), ...
            The parts of the vector.
        sealed : mapping of int to bytes
            What each neighbour sent to this client.
        members : sequence of int
            Clients that sent shares. Only they are masked against.
        """
        self._begin("mask", "confirm")
        self._members = set(members)
        self._check_members(self._members, len(members))
        if not self._members <= set(self._book.bundles):
            raise Refused("a client without keys is named as a member")
        partners = [n for n in self._neighbours if n in self._members]
        if set(sealed) != set(partners) or len(partners) < self._book.graph.threshold:
            raise Refused("shares of neighbours are missing")
        self._held = {n: shares for n in partners if (shares := self._opened(n, sealed[n]))}
        add_mask(parts, self._seed)
        for partner in partners:
            seed = mask_seed(self._name, self._mask_key, self._book.bundles[partner].mask_key)
            add_mask(parts, seed, sign(self.client, partner))

    def confirm(self, survivors: Sequence[int]) -> bytes:
        """Sign the list of the clients whose masked vectors are summed."""
        self._begin("confirm", "unmask")
        self._survivors = set(survivors)
        self._check_members(self._survivors, len(survivors))
        if not self._survivors <= self._members:
            raise Refused("a client that is no member is named as a survivor")
        lists = [sorted(self._members), sorted(self._survivors)]
        self._lists = hash_of("lists", [self._book.digest.hex(), *lists]).hex()
        return self._identity.sign(self._confirmed(self.client))

    def unmask(self, signatures: Mapping[int, bytes]) -> dict[int, Share]:
        """Return one share of each neighbour, once enough survivors have signed the same list.

        Parameters
        ----------
        signatures : mapping of int to bytes
            Signatures of survivors, as `confirm` returns them.

        Returns
        -------
        dict of int to (str, bytes)
            A share of the seed of a neighbour that survived, of the mask key of one that vanished.
        """
        self._begin("unmask", "")
        signed = [
            client
            for client, signature in signatures.items()
            if client in self._survivors
            and signed_by(self._book.bundles[client].signer, signature, self._confirmed(client))
        ]
        self.session.check_enough(len(signed))
        return {
            owner: (SEED, of_seed) if owner in self._survivors else (KEY, of_key)
            for owner, (of_seed, of_key) in self._held.items()
        }

    def _begin(self, step: str, following: str) -> None:
        """Allow each step once, in order; a step that fails ends the session for this client."""
        expected, self._next = self._next, ""
        if step != expected:
            raise Refused(f"asked for the step '{step}' out of order")
        self._next = following

    def _check_members(self, members: Collection[int], count: int) -> None:
        if len(members) != count:
            raise Refused("a client is named twice")
        if self.client not in members:
            raise Refused("this client is not among the members")
        self.session.check_enough(count)

    def _opened(self, sender: int, sealed: bytes) -> tuple[bytes, bytes] | None:
        """Return the two shares of a neighbour; None if it sent something else.

        It then has one holder less. If the client refused instead, one neighbour could end a round.
        """
        content = self._envelopes[sender].open(sender, self.client, sealed)
        if content is None or len(content) != 2 * SHARE_BYTES:
            return None
        return content[:SHARE_BYTES], content[SHARE_BYTES:]

    def _confirmed(self, client: int) -> bytes:
        """Return the hash that a client's signature of the sum signs.

        It holds the client, because a node signs for each of its clients.
        """
        return hash_of("survivors", [client, self._lists])


def sign(client: int, partner: int) -> int:
    """Return 1 if a client adds the mask that it shares with a partner, -1 if it subtracts it."""
    return 1 if client < partner else -1
