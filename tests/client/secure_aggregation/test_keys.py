import subprocess

import pytest

from fedser.client.secure_aggregation.keys import Envelope, Identity, load_peers, signed_by
from fedser.common.errors import UserError


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two keys as `docker/certificates.sh` makes them, and one of another type."""
    folder = tmp_path_factory.mktemp("keys")
    for name, kind in (("1", ["ecdsa", "-b", "384"]), ("2", ["ecdsa"]), ("other", ["ed25519"])):
        command = ["ssh-keygen", "-q", "-t", *kind, "-N", "", "-C", f"node {name}"]
        subprocess.run([*command, "-f", folder / name], check=True)
    return folder


def test_a_node_signs_with_its_registered_key(keys):
    identity = Identity.load(keys / "1")
    signature = identity.sign(b"d" * 32)
    assert signed_by(identity.public, signature, b"d" * 32)
    assert not signed_by(identity.public, signature, b"e" * 32)
    assert not signed_by(Identity.load(keys / "2").public, signature, b"d" * 32)


def test_peers_are_public_keys_with_numbers_of_clients(keys):
    lines = ["# nodes", (keys / "1.pub").read_text().strip(), ""]
    lines.append((keys / "2.pub").read_text().strip() + " clients=12")
    (keys / "peers").write_text("\n".join(lines))
    owners = [Identity.load(keys / name).public for name in ("1", "2")]
    assert load_peers(keys / "peers") == {owners[0]: 1, owners[1]: 12}


def test_files_of_other_keys_are_rejected(keys, tmp_path):
    with pytest.raises(UserError, match="not a key of the type ecdsa"):
        Identity.load(keys / "other")
    with pytest.raises(UserError, match="no private key of OpenSSH"):
        Identity.load(keys / "1.pub")
    with pytest.raises(UserError, match="no such file"):
        load_peers(tmp_path / "absent")
    (tmp_path / "peers").write_text((keys / "1.pub").read_text() + (keys / "other.pub").read_text())
    with pytest.raises(UserError, match="line 2: not a key of the type ecdsa"):
        load_peers(tmp_path / "peers")
    (tmp_path / "peers").write_text("nothing")
    with pytest.raises(UserError, match="line 1: no public key"):
        load_peers(tmp_path / "peers")


def test_only_the_receiver_opens_what_its_sender_sealed():
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    one, two, other = (X25519PrivateKey.generate() for _ in range(3))
    public = [key.public_key().public_bytes_raw() for key in (one, two, other)]
    sealed = Envelope(b"session", one, public[1]).seal(1, 2, b"shares")
    assert Envelope(b"session", two, public[0]).open(1, 2, sealed) == b"shares"
    assert Envelope(b"session", two, public[0]).open(2, 1, sealed) is None  # sent back
    assert Envelope(b"another", two, public[0]).open(1, 2, sealed) is None
    assert Envelope(b"session", other, public[0]).open(1, 2, sealed) is None
    assert Envelope(b"session", two, public[0]).open(1, 2, sealed[:-1] + b"x") is None
