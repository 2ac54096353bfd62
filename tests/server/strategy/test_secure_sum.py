"""Secure sums with clients that vanish in any step; each client is a node of its own."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from fedser.client.secure_aggregation.keys import Identity
from fedser.client.secure_aggregation.members import Members
from fedser.client.secure_aggregation.participant import KEY, SEED
from fedser.client.secure_aggregation.session import Refused, Session, degree_and_threshold
from fedser.client.secure_aggregation.sharing import SHARE_BYTES
from fedser.common.errors import UserError
from fedser.server.strategy.secure_sum import SecureSum, remove_masks

IDENTITIES = [Identity() for _ in range(12)]
STEPS = ("advertise", "share", "mask", "confirm", "unmask")


class Cohort:
    """Clients on nodes of their own, and the server; `vanish` maps a step to who misses it."""

    def __init__(self, clients, least, vanish=None, size=9, session_round=1):
        self.session = Session("private-fold0", session_round, 0, len(clients), least)
        self.nodes = {c: Members(IDENTITIES[i]) for i, c in enumerate(clients)}
        self.left, self.vanish = list(clients), vanish or {}
        self.server, self.uploads = SecureSum(self.session), {}
        rng = np.random.default_rng(session_round)
        self.vectors = {c: rng.integers(0, 2**32, size, np.uint32) for c in clients}

    def step(self, name, among=None):
        gone = self.vanish.get(name, ())
        self.left = [c for c in self.left if c not in gone]
        return [c for c in self.left if among is None or c in among]

    def upload(self):
        """Run the protocol until the server has the masked vectors."""
        s, nodes = self.session, self.nodes
        keys = [b for c in self.step("advertise") for b in nodes[c].advertise(s, [c])]
        self.server.set_keys(keys)
        sealed = [x for c in self.step("share") for x in nodes[c].share(s, [c], keys)]
        self.server.set_shares(sealed)
        members = self.server.members
        for c in self.step("mask", members):
            vector = self.vectors[c].copy()
            sealed = {sender: x for sender, _, x in self.server.sealed_for([c])}
            nodes[c].mask(s, c, [vector[:2], vector[2:]], sealed, members)
            self.uploads[c] = vector
        self.total = np.sum(list(self.uploads.values()), axis=0, dtype=np.uint32)

    def reveal(self):
        """Run the rest of the clients' steps."""
        s, survivors = self.session, list(self.uploads)
        s.check_enough(len(survivors))
        confirmed = self.step("confirm", survivors)
        signed = dict(x for c in confirmed for x in self.nodes[c].confirm(s, [c], survivors))
        asked = self.step("unmask", survivors)
        self.shares = [x for c in asked for x in self.nodes[c].unmask(s, [c], signed)]

    def open(self):
        self.upload()
        self.reveal()
        masks = self.server.masks(list(self.uploads), self.shares)
        remove_masks(self.total, masks, threads=2)
        return self.total

    def expected(self):
        return np.sum([self.vectors[c] for c in self.uploads], axis=0, dtype=np.uint32)


@st.composite
def cohorts(draw):
    """Any cohort of up to 12 clients; up to as many as the sum survives vanish, in any steps."""
    size = draw(st.integers(2, 12))
    clients = sorted(draw(st.sets(st.integers(0, 999), min_size=size, max_size=size)))
    least = draw(st.integers(max(2, size // 2 + 1), size))
    try:
        degree_and_threshold(size, size, least)
    except UserError:
        least = size
    gone = draw(st.lists(st.sampled_from(clients), unique=True, max_size=size - least))
    steps = [draw(st.sampled_from(STEPS)) for _ in gone]
    vanish = {step: [c for c, s in zip(gone, steps, strict=True) if s == step] for step in STEPS}
    return Cohort(clients, least, vanish)


@given(cohorts())
@settings(max_examples=1000)
def test_the_opened_sum_is_the_sum_of_the_uploads(cohort):
    np.testing.assert_array_equal(cohort.open(), cohort.expected())
    kinds = {}
    for _, owner, kind, _ in cohort.shares:
        kinds.setdefault(owner, set()).add(kind)
    # no share of both secrets of a client, from anybody
    assert all(len(of_owner) == 1 for of_owner in kinds.values())
    assert {o for o, kind in kinds.items() if kind == {SEED}} <= set(cohort.uploads)
    assert not {o for o, kind in kinds.items() if kind == {KEY}} & set(cohort.uploads)


@pytest.mark.parametrize("step", STEPS[:4])
def test_one_more_than_allowed_opens_nothing(step):
    allowed = Cohort(range(10), 8, {step: [3, 7]})
    np.testing.assert_array_equal(allowed.open(), allowed.expected())
    with pytest.raises(Refused, match="7 clients are left, which is fewer than the 8"):
        Cohort(range(10), 8, {step: [3, 5, 7]}).open()


def test_a_masked_upload_is_uniform():
    cohort = Cohort(range(4), 4, size=100_000)
    cohort.vectors = {c: np.zeros(100_000, np.uint32) for c in range(4)}
    cohort.upload()
    for upload in cohort.uploads.values():
        for shift in (0, 8, 16, 24):
            counts = np.bincount((upload >> shift) & 255, minlength=256)
            assert chisquare(counts).pvalue > 1e-6


def test_sums_of_fewer_than_all_uploads_stay_masked():
    cohort = Cohort(range(5), 5, size=10_000)
    cohort.open()
    own = {c: Cohort.expected(cohort) for c in cohort.uploads}
    for left_out in cohort.uploads:
        rest = cohort.expected() - cohort.uploads[left_out]
        assert (rest == own[left_out] - cohort.vectors[left_out]).mean() < 0.01


def test_shares_of_a_seed_open_no_pairwise_mask():
    # all own masks are removed, and an upload still hides its vector
    cohort = Cohort(range(5), 5, size=10_000)
    cohort.upload()
    cohort.reveal()
    masks = cohort.server.masks(list(cohort.uploads), cohort.shares)
    assert len(masks) == 5
    for (seed, sign), client in zip(masks, cohort.uploads, strict=True):
        upload = cohort.uploads[client].copy()
        remove_masks(upload, [(seed, sign)], 1)
        assert (upload == cohort.vectors[client]).mean() < 0.01


def test_a_wrong_share_of_a_key_is_noticed():
    cohort = Cohort(range(6), 5, {"mask": [2]})
    cohort.upload()
    cohort.reveal()
    holder, owner, kind, _ = next(share for share in cohort.shares if share[2] == KEY)
    changed = [
        (h, o, k, bytes(SHARE_BYTES) if (h, o, k) == (holder, owner, kind) else s)
        for h, o, k, s in cohort.shares
    ]
    with pytest.raises(
        Refused, match=r"share of the key of client 2 is wrong|client 2: the shares"
    ):
        cohort.server.masks(list(cohort.uploads), changed)


def test_missing_shares_are_named():
    cohort = Cohort(range(6), 5)
    cohort.upload()
    cohort.reveal()
    without = [share for share in cohort.shares if share[1] != 4]
    with pytest.raises(Refused, match="0 neighbours of client 4 sent shares"):
        cohort.server.masks(list(cohort.uploads), without)


def test_a_client_that_leaves_out_a_neighbour_has_vanished():
    cohort = Cohort(range(6), 5)
    s, nodes = cohort.session, cohort.nodes
    keys = [b for c in range(6) for b in nodes[c].advertise(s, [c])]
    cohort.server.set_keys(keys)
    sealed = [x for c in range(6) for x in nodes[c].share(s, [c], keys)]
    cohort.server.set_shares(
        [x for x in sealed if x[0] != 3][:] + [x for x in sealed if x[0] == 3][1:]
    )
    assert cohort.server.members == [0, 1, 2, 4, 5]
    assert all(
        3 not in (sender, receiver) for sender, receiver, _ in cohort.server.sealed_for(range(6))
    )


def test_a_node_forgets_its_secrets_once_a_sum_is_open():
    cohort = Cohort(range(3), 3)
    cohort.open()
    node = cohort.nodes[0]
    with pytest.raises(Refused, match="client 0 has no keys of this session"):
        node.unmask(cohort.session, [0], {})
    node.advertise(cohort.session, [0])
    with pytest.raises(Refused, match="client 0 has no keys of this session"):
        node.confirm(replace(cohort.session, round=2), [0], [0, 1, 2])
