"""Keys of secure aggregation: signatures of nodes, agreement of pairs, and sealed shares."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedser.client.secure_aggregation.session import Graph, Refused, Session, hash_of
from fedser.common.errors import UserError

Peers = Mapping[str, int]
"""Public keys of nodes, and the number of clients that each may have."""

_OPENSSH = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


class Identity:
    """The long-term key of a node, with which it signs for its clients.

    Parameters
    ----------
    key : EllipticCurvePrivateKey, optional
        The key that the node is registered with at its SuperLink. None: a new key, for simulations.
    """

    def __init__(self, key: ec.EllipticCurvePrivateKey | None = None) -> None:
        self._key = key or ec.generate_private_key(ec.SECP256R1())
        self.public = public_text(self._key.public_key())

    @classmethod
    def load(cls, file: Path) -> "Identity":
        """Read the private key that a node is registered with.

        Raises
        ------
        UserError
            If the file holds no such key.
        """
        try:
            key = serialization.load_ssh_private_key(file.read_bytes(), None)
        except (OSError, ValueError, UnsupportedAlgorithm) as error:
            raise UserError(f"{file}: no private key of OpenSSH without a password") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise UserError(f"{file}: not a key of the type ecdsa")
        return cls(key)

    def sign(self, digest: bytes) -> bytes:
        """Sign a hash."""
        return self._key.sign(digest, ec.ECDSA(hashes.SHA256()))


def public_text(key: ec.EllipticCurvePublicKey) -> str:
    """Return a public key as in a file of OpenSSH, without the comment."""
    return key.public_bytes(*_OPENSSH).decode()


def load_peers(file: Path) -> Peers:
    """Read the public keys of the nodes that may take part, one per line.

    A line may end with ``clients=N``: the node may have N clients. By default it has one.

    Raises
    ------
    UserError
        If the file cannot be read, or if a line is no public key of the type ecdsa.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"node.peers={file}: no such file of public keys") from error
    found = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            key = serialization.load_ssh_public_key(line.encode())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UserError(f"{file}, line {number}: no public key of OpenSSH") from error
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise UserError(f"{file}, line {number}: not a key of the type ecdsa")
        said = re.search(r"\bclients=(\d+)$", line.strip())
        found[public_text(key)] = int(said[1]) if said else 1
    return found


@lru_cache(maxsize=4096)  # all clients of a node check the same signatures
def signed_by(public: str, signature: bytes, digest: bytes) -> bool:
    """Return whether a signature of a hash is that of a public key."""
    try:
        key = serialization.load_ssh_public_key(public.encode())
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        key.verify(signature, digest, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


@dataclass(frozen=True)
class KeyBundle:
    """The public keys of a client for one session, signed by its node.

    Attributes
    ----------
    client : int
    mask_key : bytes of length 32
        X25519 key. The masks that it shares with its neighbours follow from it.
    share_key : bytes of length 32
        X25519 key. Neighbours seal their shares for this client with it.
    signer : str
        Public key of the client's node.
    signature : bytes
    """

    client: int
    mask_key: bytes
    share_key: bytes
    signer: str
    signature: bytes = b""

    def digest(self, session: bytes) -> bytes:
        """Return the hash that is signed."""
        content = [session.hex(), self.client, self.mask_key.hex(), self.share_key.hex()]
        return hash_of("keys", [*content, self.signer])

    def signed(self, session: bytes) -> bool:
        """Return whether the keys were signed for this session by the signer."""
        return signed_by(self.signer, self.signature, self.digest(session))

    @property
    def usable(self) -> bool:
        """Whether both keys can be agreed with; otherwise the client's neighbours would fail."""
        private = X25519PrivateKey.generate()
        try:
            for key in (self.mask_key, self.share_key):
                private.exchange(X25519PublicKey.from_public_bytes(key))
        except ValueError:
            return False
        return True


@dataclass(frozen=True)
class KeyBook:
    """The keys of all members of a session, checked, and the graph of their neighbours.

    Attributes
    ----------
    digest : bytes
        Hash of all keys.
    """

    bundles: Mapping[int, KeyBundle]
    digest: bytes
    graph: Graph

    @classmethod
    def of(cls, session: Session, bundles: Sequence[KeyBundle], trusted: Peers | None) -> "KeyBook":
        """Check keys.

        Parameters
        ----------
        trusted : mapping of str to int, or None
            Public keys of the nodes that may take part, with the number of clients that each may
            have. None: any node, with any clients.

        Raises
        ------
        Refused
            If there are too few keys or too many, or if keys are not signed by a node that may have
            so many clients.
        """
        if trusted is not None and not trusted:
            raise Refused("node.peers names no node: the server could play all other clients")
        name = session.digest
        by_client = {bundle.client: bundle for bundle in bundles}
        if len(by_client) != len(bundles):
            raise Refused("a client has two keys")
        session.check_enough(len(bundles))
        if len(bundles) > session.cohort:
            raise Refused(f"{len(bundles)} clients have keys, and {session.cohort} were asked")
        held = Counter(bundle.signer for bundle in bundles)
        for bundle in bundles:
            if trusted is not None and bundle.signer not in trusted:
                raise Refused(f"client {bundle.client} belongs to a node that is not trusted")
            if trusted is not None and held[bundle.signer] > trusted[bundle.signer]:
                raise Refused(
                    f"the node of client {bundle.client} has more clients than node.peers"
                )
            if not bundle.signed(name):
                raise Refused(f"the keys of client {bundle.client} are not signed by its node")
        digest = hash_of("keys of all", sorted(b.digest(name).hex() for b in bundles))
        graph = Graph.of(session, list(by_client), digest)
        return cls(by_client, digest, graph)


def agreed_key(private: X25519PrivateKey, public: bytes, use: bytes) -> bytes:
    """Return 32 bytes that only the owners of two keys can compute, for one use."""
    shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    return HKDF(hashes.SHA256(), 32, salt=None, info=use).derive(shared)


def mask_seed(session: bytes, private: X25519PrivateKey, public: bytes) -> bytes:
    """Return the seed of the mask that two clients share in a session."""
    return agreed_key(private, public, b"fedser mask" + session)


class Envelope:
    """Seals and opens what one client sends to another in a session.

    Parameters
    ----------
    private : X25519PrivateKey
        Share key of the one client.
    public : bytes
        Share key of the other client.
    """

    def __init__(self, session: bytes, private: X25519PrivateKey, public: bytes) -> None:
        self._cipher = ChaCha20Poly1305(agreed_key(private, public, b"fedser shares" + session))

    def seal(self, sender: int, receiver: int, content: bytes) -> bytes:
        """Encrypt and authenticate; may be called once for each sender."""
        return self._cipher.encrypt(_nonce(sender, receiver), content, None)

    def open(self, sender: int, receiver: int, sealed: bytes) -> bytes | None:
        """Decrypt; None if the content was not sealed by this sender for this receiver."""
        try:
            return self._cipher.decrypt(_nonce(sender, receiver), sealed, None)
        except (InvalidTag, ValueError):
            return None


def _nonce(sender: int, receiver: int) -> bytes:
    """Return the nonce: a key is agreed for one session and seals once in each direction."""
    return sender.to_bytes(6, "big") + receiver.to_bytes(6, "big")
