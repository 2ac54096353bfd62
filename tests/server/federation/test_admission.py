import json

import pytest

from fedser.client.holdings import Holdings
from fedser.server.federation.admission import (
    MAX_CHARACTERS,
    MAX_SPEAKERS,
    BadRoster,
    dominant_nodes,
    nodes_to_reject,
    parse_roster,
)
from tests.examples import corpus

ROSTER = {"version": "1", "corpus": "made", "shards": 2, "features": "made-up", "dimension": 12}
NAMES = {1: "a", 2: "b", 3: "c", 4: "d"}


def roster_of(**speakers):
    return {**ROSTER, "speakers": speakers}


def test_an_honest_roster_is_accepted():
    roster = Holdings(corpus(), "made-up").roster
    assert parse_roster(json.dumps(roster)) == roster
    many = roster_of(**{f"s{number}": 4 for number in range(MAX_SPEAKERS)})
    assert parse_roster(json.dumps(many)) == many


@pytest.mark.parametrize(
    "name", ["s00", "Jörg 2", "张伟", "ravdess/01", "O'Neill, A.", "_x", "हिन्दी"]
)
def test_names_of_any_script_are_accepted(name):
    assert parse_roster(json.dumps(roster_of(**{name: 12})))["speakers"] == {name: 12}


@pytest.mark.parametrize(
    ("roster", "reason"),
    [
        ([1], "sends no roster as a node of fedser does"),
        (None, "sends no roster"),
        ({}, "sends no roster"),
        (roster_of(), "names 0 speakers"),
        (roster_of(s01=3), "of speaker s01 is not a whole number from 4 to 100000"),
        (roster_of(s01=2**31), "of speaker s01 is not a whole number from"),
        (roster_of(s01=True), "of speaker s01 is not a whole number from"),
        (roster_of(s01=12.0), "of speaker s01 is not a whole number from"),
        (
            {**roster_of(s01=12), "dimension": True},
            "its dimension is not a whole number from 1 to 1048576",
        ),
        (
            {**roster_of(s01=12), "version": "1" * 33},
            "its version is not a printable text of at most 32 characters",
        ),
        ({**roster_of(s01=12), "features": "x\n"}, "its features is not a printable text"),
        ({**roster_of(s01=12), "corpus": "<b>"}, "the name of its corpus does not begin"),
        (roster_of(**{f"s{n}": 4 for n in range(MAX_SPEAKERS + 1)}), "names 10001 speakers"),
        (roster_of(s01=12, S01=12), "differ only in case or spaces"),
    ],
)
def test_a_malformed_roster_is_rejected_with_a_reason(roster, reason):
    with pytest.raises(BadRoster, match=reason):
        parse_roster(json.dumps(roster))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "1" * 5000, "x" * (MAX_CHARACTERS + 1)])
def test_text_that_is_no_roster_is_rejected(text):
    with pytest.raises(BadRoster):
        parse_roster(text)


def test_a_repeated_speaker_is_rejected():
    text = json.dumps(roster_of(s00=12)).replace('{"s00": 12}', '{"s00": 12, "s00": 13}')
    with pytest.raises(BadRoster):
        parse_roster(text)


def test_nodes_that_differ_from_the_majority_are_left_out():
    others = {1: roster_of(s00=12), 2: roster_of(s01=12), 3: {**roster_of(s02=12), "version": "2"}}
    reason = "its version is 2, and 1 at other nodes; start all nodes with the same"
    assert nodes_to_reject(others, NAMES) == {3: reason}
    assert set(nodes_to_reject({1: others[1], 3: others[3]}, NAMES)) == {1, 3}


def test_a_node_with_speakers_of_others_is_left_out():
    others = {
        1: roster_of(s00=12),
        2: roster_of(s01=12),
        3: roster_of(s02=12),
        4: roster_of(S00=12, s01=12, x=12),
    }
    assert nodes_to_reject(others, NAMES) == {
        4: "speaker S00 is also at node a; give each speaker to one node, with corpus.speakers "
        "or another folder"
    }
    del others[2]
    assert set(nodes_to_reject(others, NAMES)) == {1, 4}  # it is unknown which of them lies


def test_a_node_with_far_too_many_utterances_is_left_out():
    liar = roster_of(x=10_000, **{f"y{n}": 10_000 for n in range(200)})
    others = {1: roster_of(s00=12), 2: roster_of(s01=30), 3: liar}
    (refused,) = nodes_to_reject(others, NAMES).items()
    assert refused[0] == 3 and "more than 100 times the usual number" in refused[1]
    others[3] = roster_of(x=1200)
    assert nodes_to_reject(others, NAMES) == {} and dominant_nodes(others) == [3]
