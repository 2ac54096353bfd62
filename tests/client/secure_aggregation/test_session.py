from itertools import combinations

import pytest
from scipy.stats import hypergeom

from fedser.client.secure_aggregation.session import (
    CORRUPT,
    SPLIT,
    STUCK,
    Graph,
    Refused,
    Session,
    degree_and_threshold,
)
from fedser.common.errors import UserError

SIZES = [(2, 2), (3, 3), (4, 4), (10, 9), (20, 18), (36, 33), (100, 90), (200, 170), (1000, 900)]


@pytest.mark.parametrize(("members", "least"), SIZES)
def test_degree_and_threshold_hold_what_they_promise(members, least):
    degree, threshold = degree_and_threshold(members, members, least)
    gone, corrupt = members - least, int(CORRUPT * members)
    assert 1 <= threshold <= degree < members
    assert degree == members - 1 or degree % 2 == 0
    assert degree >= min(members - 1, gone + corrupt + 1)
    # enough neighbours are left to open the sum
    left_too_few = hypergeom(members - 1, gone, degree).sf(degree - threshold)
    assert members * left_too_few <= STUCK
    # a server that lies to some cannot get t shares of both secrets of a member: it needs 2 t of
    # the k honest neighbours and twice the corrupt ones
    split = hypergeom(members - 1, corrupt, degree).sf(2 * threshold - degree - 1)
    assert members * split <= SPLIT


def graph_of(members, least, keys=b"keys"):
    return Graph.of(Session("f", 1, 0, members, least), range(members), keys)


def test_corrupt_clients_are_a_share_of_the_cohort():
    # a server that passes on 80 of 100 keys may keep the keys of all ten that work with it
    degree, threshold = degree_and_threshold(100, 80, 65)
    split = hypergeom(79, 10, degree).sf(2 * threshold - degree - 1)
    assert 80 * split <= SPLIT and degree >= 15 + 10 + 1


def test_a_cohort_in_which_too_many_may_vanish_is_rejected():
    with pytest.raises(UserError, match=r"privacy.dropout: 5 of 10 clients may be missing"):
        degree_and_threshold(10, 10, 5)


@pytest.mark.parametrize("members", [2, 3, 9, 20])
def test_neighbours_are_mutual_and_equally_many(members):
    graph = graph_of(members, members - members // 10)
    for member in range(members):
        neighbours = graph.neighbours(member)
        assert len(neighbours) == graph.degree and member not in neighbours
        assert neighbours == sorted(neighbours)
        assert all(member in graph.neighbours(n) for n in neighbours)


def connected(graph, left):
    seen, waiting = set(), [next(iter(left))]
    while waiting:
        member = waiting.pop()
        if member not in seen:
            seen.add(member)
            waiting += [n for n in graph.neighbours(member) if n in left]
    return seen == left


def test_whoever_is_missing_or_corrupt_the_others_stay_connected():
    graph = graph_of(10, 9)
    assert graph.degree == 4
    for removed in combinations(range(10), 2):  # one vanished, one works with the server
        assert connected(graph, set(range(10)) - set(removed))


def test_neighbours_follow_from_all_keys():
    graphs = {graph_of(20, 18, bytes([k])).ring for k in range(20)}
    assert len(graphs) == 20


def test_another_session_has_another_digest():
    sessions = [
        Session("private-fold0", 1, 0, 9, 5),
        Session("private-fold1", 1, 0, 9, 5),
        Session("private-fold0", 2, 0, 9, 5),
        Session("private-fold0", 1, 1, 9, 5),
        Session("private-fold0", 1, 0, 9, 6),
        Session("private-fold0", 1, 0, 8, 5),
    ]
    assert len({session.digest for session in sessions}) == 6


def test_too_few_clients_are_refused():
    session = Session("f", 1, 0, 9, 5)
    session.check_enough(5)
    with pytest.raises(Refused, match="4 clients are left, which is fewer than the 5"):
        session.check_enough(4)
