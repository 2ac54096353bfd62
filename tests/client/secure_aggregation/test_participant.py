"""One client against a server that may do anything."""

from dataclasses import replace

import numpy as np
import pytest

from fedser.client.secure_aggregation.keys import Identity, KeyBook
from fedser.client.secure_aggregation.members import Members
from fedser.client.secure_aggregation.participant import KEY, SEED, Participant
from fedser.client.secure_aggregation.session import Refused, Session

SESSION = Session("private-fold0", 3, 0, 5, 4)
CLIENTS = [2, 3, 5, 7, 11]
SIZE = 20


class Round:
    """An honest server and five clients, each on its own node; `until` a step."""

    def __init__(self, until="", session=SESSION, clients=CLIENTS):
        self.identities = {c: Identity() for c in clients}
        self.clients = {c: Participant(c, session, self.identities[c]) for c in clients}
        self.session, self.vectors = session, {c: np.zeros(SIZE, np.uint32) for c in clients}
        for step in ("advertise", "share", "mask", "confirm", "unmask"):
            if step == until:
                break
            getattr(self, step)()

    def advertise(self):
        self.bundles = [client.advertise() for client in self.clients.values()]

    def share(self):
        self.book = KeyBook.of(self.session, self.bundles, None)
        self.sealed = {c: client.share(self.book) for c, client in self.clients.items()}

    def for_client(self, receiver):
        return {s: sealed[receiver] for s, sealed in self.sealed.items() if receiver in sealed}

    def mask(self):
        for c, client in self.clients.items():
            client.mask([self.vectors[c]], self.for_client(c), list(self.clients))

    def confirm(self, survivors=CLIENTS):
        self.signatures = {c: self.clients[c].confirm(survivors) for c in survivors}

    def unmask(self):
        self.revealed = {c: client.unmask(self.signatures) for c, client in self.clients.items()}


def test_a_client_reveals_one_share_of_each_neighbour():
    made = Round()
    for client, revealed in made.revealed.items():
        assert set(revealed) == set(made.book.graph.neighbours(client))
        assert {kind for kind, _ in revealed.values()} == {SEED}


def test_of_a_client_that_vanished_the_key_is_revealed():
    made = Round(until="confirm")
    made.confirm([2, 3, 5, 7])
    revealed = made.clients[2].unmask(made.signatures)
    kinds = {owner: kind for owner, (kind, _) in revealed.items()}
    assert kinds == {n: KEY if n == 11 else SEED for n in made.book.graph.neighbours(2)}


STEPS = {
    "advertise": lambda made: made.clients[2].advertise(),
    "share": lambda made: made.clients[2].share(made.book),
    "mask": lambda made: made.clients[2].mask([made.vectors[2]], made.for_client(2), CLIENTS),
    "confirm": lambda made: made.clients[2].confirm(CLIENTS),
    "unmask": lambda made: made.clients[2].unmask(made.signatures),
}


@pytest.mark.parametrize("step", STEPS)
def test_each_step_is_done_once(step):
    made = Round()
    with pytest.raises(Refused, match=f"asked for the step '{step}' out of order"):
        STEPS[step](made)


@pytest.mark.parametrize("reached", ["advertise", "share", "mask", "confirm"])
def test_no_step_is_left_out(reached):
    made, whole = Round(until=reached), Round()
    made.book, made.sealed, made.signatures = whole.book, whole.sealed, whole.signatures
    for later in list(STEPS)[list(STEPS).index(reached) + 1 :]:
        with pytest.raises(Refused, match="out of order"):
            STEPS[later](made)
        made = Round(until=reached)
        made.book, made.sealed, made.signatures = whole.book, whole.sealed, whole.signatures


def test_two_lists_of_survivors_give_no_second_share():
    # the server asks for shares of seeds first, and then says that client 11 vanished
    made = Round()
    with pytest.raises(Refused, match="out of order"):
        made.clients[2].confirm([2, 3, 5, 7])


def test_a_failed_step_ends_the_session():
    made = Round(until="confirm")
    with pytest.raises(Refused):
        made.clients[2].confirm([2, 3])
    with pytest.raises(Refused, match="out of order"):
        made.clients[2].confirm(CLIENTS)


def changed(bundles, client, **changes):
    return [replace(b, **changes) if b.client == client else b for b in bundles]


def test_keys_that_the_server_made_are_refused():
    made = Round(until="share")
    own = Round(until="share").bundles  # a server that plays client 5 with keys of its own
    (forged,) = (b for b in own if b.client == 5)
    bundles = [forged if b.client == 5 else b for b in made.bundles]
    trusted = {identity.public: 1 for identity in made.identities.values()}
    KeyBook.of(SESSION, made.bundles, trusted)
    with pytest.raises(Refused, match="client 5 belongs to a node that is not trusted"):
        KeyBook.of(SESSION, bundles, trusted)
    signer = made.identities[5].public
    with pytest.raises(Refused, match="keys of client 5 are not signed by its node"):
        KeyBook.of(SESSION, changed(bundles, 5, signer=signer), trusted)


@pytest.mark.parametrize("field", ["mask_key", "share_key"])
def test_a_key_that_the_server_changed_is_refused(field):
    made = Round(until="share")
    other = next(b for b in made.bundles if b.client == 7)
    bundles = changed(made.bundles, 5, **{field: getattr(other, field)})
    with pytest.raises(Refused, match="keys of client 5 are not signed"):
        KeyBook.of(SESSION, bundles, None)


def test_keys_of_another_session_are_refused():
    made = Round(until="share")
    with pytest.raises(Refused, match="not signed"):
        KeyBook.of(replace(SESSION, round=4), made.bundles, None)


def test_two_keys_of_one_client_are_refused():
    made = Round(until="share")
    with pytest.raises(Refused, match="a client has two keys"):
        KeyBook.of(SESSION, [*made.bundles, made.bundles[0]], None)


def test_a_client_without_its_own_keys_refuses():
    made = Round(until="share")
    book = KeyBook.of(SESSION, made.bundles[1:], None)
    with pytest.raises(Refused, match="left out or changed the keys of this client"):
        made.clients[2].share(book)
    made = Round(until="share")
    own = KeyBook.of(SESSION, [Round(until="share").bundles[0], *made.bundles[1:]], None)
    with pytest.raises(Refused, match="left out or changed the keys of this client"):
        made.clients[2].share(own)


def test_too_few_keys_are_refused():
    with pytest.raises(Refused, match="3 clients are left"):
        KeyBook.of(SESSION, Round(until="share").bundles[:3], None)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        (CLIENTS[:3], "3 clients are left"),
        ([2, 3, 5, 5, 7], "named twice"),
        (CLIENTS[1:], "not among the members"),
        ([*CLIENTS, 13], "without keys"),
    ],
)
def test_a_client_masks_against_real_members_only(members, why):
    made = Round(until="mask")
    with pytest.raises(Refused, match=why):
        made.clients[2].mask([made.vectors[2]], made.for_client(2), members)
    assert not made.vectors[2].any()


@pytest.mark.parametrize(
    "damage", [lambda s: dict(list(s.items())[1:]), lambda s: {**s, 13: b""}, lambda s: {}]
)
def test_shares_of_other_clients_than_the_neighbours_are_refused(damage):
    made = Round(until="mask")
    with pytest.raises(Refused, match="shares of neighbours are missing"):
        made.clients[2].mask([made.vectors[2]], damage(made.for_client(2)), CLIENTS)


def test_a_neighbour_that_seals_nonsense_ends_no_round():
    made = Round(until="mask")
    first, *_ = made.for_client(2)
    for nonsense in (b"", bytes(82), made.sealed[first][2][:-1]):
        one = Round(until="mask")
        damaged = {**one.for_client(2), first: nonsense}
        one.clients[2].mask([one.vectors[2]], damaged, CLIENTS)
        for client in CLIENTS[1:]:
            one.clients[client].mask([one.vectors[client]], one.for_client(client), CLIENTS)
        one.confirm()
        revealed = one.clients[2].unmask(one.signatures)
        assert set(revealed) == set(one.book.graph.neighbours(2)) - {first}


@pytest.mark.parametrize(
    ("survivors", "why"),
    [
        ([2, 3, 5], "3 clients are left"),
        ([3, 5, 7, 11], "not among the members"),
        ([2, 3, 5, 7, 7], "named twice"),
        ([2, 3, 5, 13], "no member is named as a survivor"),
    ],
)
def test_a_client_confirms_plausible_lists_only(survivors, why):
    made = Round(until="confirm")
    with pytest.raises(Refused, match=why):
        made.clients[2].confirm(survivors)


def test_signatures_of_another_list_do_not_count():
    # a server that lies: it tells two clients that 11 vanished, and the others that nobody did
    made = Round(until="confirm")
    some = {c: made.clients[c].confirm([2, 3, 5, 7]) for c in (2, 3)}
    others = {c: made.clients[c].confirm(CLIENTS) for c in (5, 7, 11)}
    for client in CLIENTS:
        with pytest.raises(Refused, match="clients are left, which is fewer than the 4"):
            made.clients[client].unmask(some | others)


def test_signatures_of_other_clients_or_rounds_do_not_count():
    made = Round(until="confirm")
    made.confirm()
    swapped = dict(
        zip(CLIENTS, [made.signatures[c] for c in CLIENTS[1:] + CLIENTS[:1]], strict=True)
    )
    with pytest.raises(Refused, match="0 clients are left"):
        made.clients[2].unmask(swapped)


def test_a_signature_confirms_one_client_of_a_node():
    # the clients 2 to 7 are of one node: its signature for one is none for the others
    made = Round(until="advertise")
    for client in CLIENTS[:4]:
        made.identities[client] = made.identities[2]
        made.clients[client] = Participant(client, SESSION, made.identities[2])
    made.advertise()
    made.share()
    made.mask()
    made.confirm()
    with pytest.raises(Refused, match="1 clients are left"):
        made.clients[11].unmask(dict.fromkeys(CLIENTS[:4], made.signatures[2]))
    assert made.clients[2].unmask(made.signatures)


def test_clients_of_a_node_are_sent_the_same_lists():
    node = Members(Identity())
    bundles = node.advertise(SESSION, CLIENTS)
    sealed = node.share(SESSION, CLIENTS, bundles)

    def mask(client, members):
        own = {s: x for s, r, x in sealed if r == client and s in members}
        node.mask(SESSION, client, [np.zeros(SIZE, np.uint32)], own, members)

    mask(2, CLIENTS)
    with pytest.raises(Refused, match="clients of this node are sent different members"):
        mask(3, CLIENTS[:4])
    for client in CLIENTS[2:]:
        mask(client, CLIENTS)
    node.confirm(SESSION, [2], CLIENTS)
    with pytest.raises(Refused, match="clients of this node are sent different survivors"):
        node.confirm(SESSION, [5], CLIENTS[:4])


def test_a_node_has_no_more_clients_than_its_peers_know():
    # a node that works with the server signs for clients that it invents
    node = Identity()
    clients = [Participant(c, SESSION, node) for c in CLIENTS]
    bundles = [client.advertise() for client in clients]
    KeyBook.of(SESSION, bundles, {node.public: 5})
    with pytest.raises(Refused, match="the node of client 2 has more clients than"):
        KeyBook.of(SESSION, bundles, {node.public: 4})
    with pytest.raises(Refused, match="node.peers names no node"):
        KeyBook.of(SESSION, bundles, {})


def test_there_are_no_more_keys_than_clients_that_were_asked():
    made = Round(until="share")
    with pytest.raises(Refused, match="5 clients have keys, and 4 were asked"):
        KeyBook.of(replace(SESSION, cohort=4), made.bundles, None)


@pytest.mark.parametrize("signer", ["", "ssh-foo AAAA", "ssh-rsa AAAA", "ecdsa-sha2-nistp256 AAAA"])
def test_a_signer_that_is_no_key_signs_nothing(signer):
    made = Round(until="share")
    with pytest.raises(Refused, match="keys of client 5 are not signed"):
        KeyBook.of(SESSION, changed(made.bundles, 5, signer=signer), None)


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(32)])
def test_keys_that_cannot_be_agreed_with_are_named_unusable(key):
    bundle = Round(until="share").bundles[0]
    assert bundle.usable
    assert not replace(bundle, mask_key=key).usable
    assert not replace(bundle, share_key=key).usable


def test_two_rounds_share_no_mask():
    first = Round(session=replace(SESSION, round=1))
    second = Round(session=replace(SESSION, round=2))
    for client in CLIENTS:
        assert not np.isin(first.vectors[client], second.vectors[client]).any()


def test_a_session_that_is_begun_again_has_new_lists():
    node = Members(Identity())
    for members in (CLIENTS, CLIENTS[:4]):  # the server runs the same study twice
        bundles = node.advertise(SESSION, CLIENTS)
        sealed = node.share(SESSION, CLIENTS, bundles)
        own = {s: x for s, r, x in sealed if r == 2 and s in members}
        node.mask(SESSION, 2, [np.zeros(SIZE, np.uint32)], own, members)
