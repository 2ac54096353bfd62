import json

import pytest

from fedser.client.holdings import Holdings
from fedser.server.federation.admission import (
    MOST_BYTES,
    MOST_SPEAKERS,
    BadRoster,
    choose_nodes,
    dominant,
    parse_roster,
)
from tests.examples import corpus

TOLD = {"version": "1", "corpus": "made", "shards": 2, "features": "made-up", "dimension": 12}
NAMES = {1: "a", 2: "b", 3: "c", 4: "d"}


def told(**speakers):
    return {**TOLD, "speakers": speakers}


def test_what_a_node_tells_of_itself_is_accepted():
    roster = Holdings(corpus(), "made-up").roster
    assert parse_roster(json.dumps(roster)) == roster
    many = told(**{f"s{number}": 4 for number in range(MOST_SPEAKERS)})
    assert parse_roster(json.dumps(many)) == many


@pytest.mark.parametrize(
    "name", ["s00", "Jörg 2", "张伟", "ravdess/01", "O'Neill, A.", "_x", "हिन्दी"]
)
def test_names_of_any_script_are_accepted(name):
    assert parse_roster(json.dumps(told(**{name: 12})))["speakers"] == {name: 12}


@pytest.mark.parametrize(
    ("roster", "reason"),
    [
        ([1], "does not tell what a node of fedser does"),
        (None, "does not tell what"),
        ({}, "does not tell what"),
        (told(), "names 0 speakers"),
        (told(s01=3), "of speaker s01 is not within 4 and 100000"),
        (told(s01=2**31), "of speaker s01 is not within"),
        (told(s01=True), "of speaker s01 is not within"),
        (told(s01=12.0), "of speaker s01 is not within"),
        ({**told(s01=12), "dimension": True}, "does not tell its dimension, 1 to 1048576"),
        ({**told(s01=12), "version": "1" * 33}, "does not tell its version"),
        ({**told(s01=12), "features": "x\n"}, "does not tell its features"),
        ({**told(s01=12), "corpus": "<b>"}, "the name of its corpus does not begin"),
        (told(**{f"s{n}": 4 for n in range(MOST_SPEAKERS + 1)}), "names 10001 speakers"),
        (told(s01=12, S01=12), "differ in case or spaces alone"),
    ],
)
def test_a_malformed_roster_is_refused_by_a_reason(roster, reason):
    with pytest.raises(BadRoster, match=reason):
        parse_roster(json.dumps(roster))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "1" * 5000, "x" * (MOST_BYTES + 1)])
def test_text_that_is_no_roster_is_refused(text):
    with pytest.raises(BadRoster):
        parse_roster(text)


def test_a_speaker_that_is_told_twice_is_refused():
    text = json.dumps(told(s00=12)).replace('{"s00": 12}', '{"s00": 12, "s00": 13}')
    with pytest.raises(BadRoster):
        parse_roster(text)


def test_nodes_that_differ_from_the_majority_are_left_out():
    others = {1: told(s00=12), 2: told(s01=12), 3: {**told(s02=12), "version": "2"}}
    reason = "its version is 2, that of others 1; start all nodes with the same"
    assert choose_nodes(others, NAMES) == {3: reason}
    assert set(choose_nodes({1: others[1], 3: others[3]}, NAMES)) == {1, 3}


def test_who_claims_the_speakers_of_several_nodes_is_left_out_alone():
    others = {1: told(s00=12), 2: told(s01=12), 3: told(s02=12), 4: told(S00=12, s01=12, x=12)}
    assert choose_nodes(others, NAMES) == {
        4: "speaker S00 is at node a, too; give each speaker to one node, with corpus.speakers "
        "or another folder"
    }
    del others[2]
    assert set(choose_nodes(others, NAMES)) == {1, 4}  # who is right, nobody can tell


def test_counts_out_of_proportion_are_left_out_whatever_else_is_claimed():
    liar = told(x=10_000, **{f"y{n}": 10_000 for n in range(200)})
    others = {1: told(s00=12), 2: told(s01=30), 3: liar}
    (refused,) = choose_nodes(others, NAMES).items()
    assert refused[0] == 3 and "more than 100 times as many as is usual" in refused[1]
    others[3] = told(x=1200)
    assert choose_nodes(others, NAMES) == {} and dominant(others) == [3]
