from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tenseal", reason="needs tenseal: pip install 'fedser[encrypted]'")

from fedser.client.encryption.ckks import STEP
from fedser.client.encryption.key_holder import KeyHolder
from fedser.client.secure_aggregation.keys import Identity
from fedser.client.secure_aggregation.session import Refused, Session

SESSION = Session("private-fold0", 3, 0, cohort=4, min_clients=3)
OWN = Identity()


def made(holder=None):
    signed = (holder or KeyHolder(OWN)).make(SESSION)
    return signed, signed.checked(SESSION, None)


def test_a_key_decrypts_one_sum_of_enough_clients():
    holder = KeyHolder(OWN)
    _, public = made(holder)
    sent = public.encrypt(np.array([1.0, -0.5]), 4)
    assert (holder.decrypt(SESSION, [0, 1, 2], sent) * STEP).tolist() == [1.0, -0.5]
    with pytest.raises(Refused, match="no key of this session"):
        holder.decrypt(SESSION, [0, 1, 2], sent)


@pytest.mark.parametrize("clients", [[], [0, 1], [0, 1, 1, 0]])
def test_a_sum_of_too_few_is_not_decrypted(clients):
    holder = KeyHolder(OWN)
    _, public = made(holder)
    sent = public.encrypt(np.ones(2), 4)
    with pytest.raises(Refused, match="fewer than the 3 that a sum needs"):
        holder.decrypt(SESSION, clients, sent)
    with pytest.raises(Refused, match="no key"):
        holder.decrypt(SESSION, [0, 1, 2], sent)


@pytest.mark.parametrize("other", [{"round": 4}, {"attempt": 1}, {"min_clients": 2}])
def test_a_key_of_another_session_is_refused(other):
    holder = KeyHolder(OWN)
    signed, public = made(holder)
    with pytest.raises(Refused, match="no key of this session"):
        holder.decrypt(replace(SESSION, **other), [0, 1, 2], public.encrypt(np.ones(2), 4))
    with pytest.raises(Refused, match="not signed by its holder"):
        signed.checked(replace(SESSION, **other), None)


def test_a_client_takes_only_keys_of_nodes_that_it_trusts():
    signed, _ = made()
    signed.checked(SESSION, {OWN.public: 1})
    for trusted in ({}, {Identity().public: 1}):
        with pytest.raises(Refused, match=r"not named in node\.peers"):
            signed.checked(SESSION, trusted)
    # a server that passes on a key of its own under the name of a trusted node
    own = KeyHolder(Identity()).make(SESSION)
    with pytest.raises(Refused, match="not signed by its holder"):
        replace(own, signer=OWN.public).checked(SESSION, {OWN.public: 1})


def test_what_is_signed_but_no_key_is_refused(monkeypatch):
    from fedser.client.encryption.ckks import SecretKey

    monkeypatch.setattr(SecretKey, "public", b"nothing")
    with pytest.raises(Refused, match="no public key"):
        made()
