"""The node that holds the secret key of a round, and what the other nodes check of its public key.

A new pair of keys is made for each attempt of a round, and it decrypts one sum. The secret key
exists in the memory of this node only: neither a checkpoint nor a message has it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from fedser.client.encryption.ckks import PublicKey, SecretKey, Steps
from fedser.client.secure_aggregation.keys import Identity, Peers, signed_by
from fedser.client.secure_aggregation.session import Refused, Session, hash_of


@dataclass(frozen=True)
class SignedKey:
    """A public key for one session, signed by the node that made it.

    Attributes
    ----------
    content : bytes
        As `SecretKey.public` returns it.
    signer : str
        Public key of the node's identity.
    signature : bytes
    """

    content: bytes
    signer: str
    signature: bytes

    def checked(self, session: Session, trusted: Peers | None) -> PublicKey:
        """Return the key, for a client of another node.

        Parameters
        ----------
        trusted : mapping of str to int, or None
            Public keys of the nodes that may hold a key. None: any node.

        Raises
        ------
        Refused
            If the key is not signed for this session by a node that is trusted, or is no key.
        """
        if trusted is not None and self.signer not in trusted:
            raise Refused("the holder of the key is not named in node.peers")
        if not signed_by(self.signer, self.signature, _digest(session, self.content)):
            raise Refused("the key is not signed by its holder")
        try:
            return PublicKey(self.content)
        except ValueError as error:
            raise Refused(str(error)) from error


class KeyHolder:
    """The keys that one node holds, at most one for each federation.

    Parameters
    ----------
    identity : Identity
        Signs for the node.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._keys: dict[str, tuple[Session, SecretKey]] = {}

    def make(self, session: Session) -> SignedKey:
        """Make a pair of keys; an earlier pair of the federation is forgotten."""
        key = SecretKey()
        self._keys[session.federation], content = (session, key), key.public
        signature = self._identity.sign(_digest(session, content))
        return SignedKey(content, self._identity.public, signature)

    def decrypt(self, session: Session, clients: Sequence[int], parts: Sequence[bytes]) -> Steps:
        """Return the values (d,) of a sum, and forget the key.

        Parameters
        ----------
        clients : sequence of int
            Clients whose ciphertexts the sum holds, as the server says: nobody can see it.

        Raises
        ------
        Refused
            If too few clients are named, or if the node has no key of this session.
        ValueError
            As `SecretKey.decrypt` does.
        """
        owner, key = self._keys.pop(session.federation, (None, None))
        if key is None or owner != session:
            raise Refused("this node has no key of this session")
        session.check_enough(len(set(clients)))
        return key.decrypt(parts)


def _digest(session: Session, content: bytes) -> bytes:
    key = hashlib.sha256(content).hexdigest()
    return hash_of("public key", [session.digest.hex(), key])
