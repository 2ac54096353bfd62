"""The clients of a node that take part in secure sums, each with its own state."""

from collections.abc import Iterable, Mapping, Sequence

from fedser.client.secure_aggregation.keys import Identity, KeyBook, KeyBundle, Peers
from fedser.client.secure_aggregation.masks import Words
from fedser.client.secure_aggregation.participant import Participant
from fedser.client.secure_aggregation.session import Refused, Session

Sealed = tuple[int, int, bytes]
"""Sender, receiver, and shares that only the receiver can read."""

RevealedShare = tuple[int, int, str, bytes]
"""Holder and owner of a share, `SEED` or `KEY`, and the share."""


class Members:
    """The participants of one node. The keys of a session exist in this process only.

    A node that starts again has lost them, and its clients count as vanished.

    Parameters
    ----------
    identity : Identity
    trusted : mapping of str to int, or None
        As in `KeyBook.of`.

    Raises
    ------
    Refused
        As the steps of `Participant` do. Then the node's other clients do not go on either.
    """

    def __init__(self, identity: Identity, trusted: Peers | None = None) -> None:
        self._identity, self._trusted = identity, trusted
        self._participants: dict[tuple[str, int], Participant] = {}
        self._lists: dict[tuple[str, str], list[int]] = {}

    def advertise(self, session: Session, clients: Iterable[int]) -> list[KeyBundle]:
        """Return new keys of the clients; an earlier session of the federation is over."""
        for name in ("members", "survivors"):
            self._lists.pop((session.federation, name), None)
        for client in clients:
            participant = Participant(client, session, self._identity)
            self._participants[session.federation, client] = participant
        return [self._find(session, client).advertise() for client in clients]

    def share(
        self, session: Session, clients: Iterable[int], bundles: Sequence[KeyBundle]
    ) -> list[Sealed]:
        """Return the clients' sealed shares for their neighbours."""
        book = KeyBook.of(session, bundles, self._trusted)
        return [
            (client, receiver, sealed)
            for client in clients
            for receiver, sealed in self._find(session, client).share(book).items()
        ]

    def mask(
        self,
        session: Session,
        client: int,
        parts: Sequence[Words],
        sealed: Mapping[int, bytes],
        members: Sequence[int],
    ) -> None:
        """Add the masks of a client to the parts of its vector, in place.

        All clients of a node must get the same list of members.

        Parameters
        ----------
        sealed : mapping of int to bytes
            What each neighbour sent to this client.
        """
        self._check_alike(session, "members", members)
        self._find(session, client).mask(parts, sealed, members)

    def confirm(
        self, session: Session, clients: Iterable[int], survivors: Sequence[int]
    ) -> list[tuple[int, bytes]]:
        """Return the clients' signatures of the list of survivors.

        All clients of a node must get the same list.
        """
        self._check_alike(session, "survivors", survivors)
        return [(client, self._find(session, client).confirm(survivors)) for client in clients]

    def unmask(
        self, session: Session, clients: Iterable[int], signatures: Mapping[int, bytes]
    ) -> list[RevealedShare]:
        """Return the shares that the clients reveal, and forget all secrets of the session."""
        revealed = []
        for client in clients:
            shares = self._find(session, client).unmask(signatures)
            revealed += [(client, owner, kind, share) for owner, (kind, share) in shares.items()]
            del self._participants[session.federation, client]
        return revealed

    def _check_alike(self, session: Session, name: str, clients: Sequence[int]) -> None:
        """Reject a list that differs from the one that another client of this node was sent."""
        own = sorted(clients)
        if self._lists.setdefault((session.federation, name), own) != own:
            raise Refused(f"clients of this node are sent different {name}")

    def _find(self, session: Session, client: int) -> Participant:
        found = self._participants.get((session.federation, client))
        if found is None or found.session != session:
            raise Refused(f"client {client} has no keys of this session")
        return found
