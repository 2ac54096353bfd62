"""A study whose nodes and server are killed and held up: the soak, in short."""

import pytest

from tests.network.soak import Blow, Soak, check, uar_of

ROUNDS, ROUND_TIMEOUT = 5, 8.0
BLOWS = [
    Blow(2, 0.5, "kill", "node-1"),
    Blow(3, 1.0, "kill", "server", hits="ours"),
    Blow(4, 0.0, "hold", "node-2", 1.5 * ROUND_TIMEOUT, hits="flower"),
]


@pytest.fixture(scope="module")
def soaked(tmp_path_factory):
    soak = Soak(tmp_path_factory.mktemp("soak") / "s", ROUNDS, ROUND_TIMEOUT, 8)
    soak.simulate(0)
    soak.go(BLOWS, limit=900)
    return soak


def test_a_study_outlives_its_nodes_and_its_server(soaked):
    assert soaked.struck == BLOWS
    assert soaked.statuses[-1] == 0
    released, _ = check(soaked.run, ROUNDS)
    assert released == 3 * ROUNDS  # half of the six who train


def test_it_comes_to_a_model_that_was_scored(soaked):
    assert 0 < uar_of(soaked.run) <= 1
