"""A study while its nodes and its server are killed or paused: a short soak."""

import pytest

from tests.network.soak import Failure, Soak, check, uar_of

ROUNDS, ROUND_TIMEOUT, NODES = 5, 8.0, 3
FAILURES = [
    Failure(2, 0.5, "kill", "node-1"),
    Failure(3, 1.0, "kill", "server", hits="ours"),
    Failure(4, 0.0, "pause", "node-2", 1.5 * ROUND_TIMEOUT, hits="flower"),
]


@pytest.fixture(scope="module")
def soaked(tmp_path_factory):
    soak = Soak(tmp_path_factory.mktemp("soak") / "s", ROUNDS, ROUND_TIMEOUT, NODES, 8)
    soak.simulate(0)
    soak.run_to_end(FAILURES, limit=900)
    return soak


def test_a_study_survives_its_nodes_and_its_server(soaked):
    assert soaked.injected == FAILURES
    assert soaked.statuses[-1] == 0
    released, _ = check(soaked.run, ROUNDS)
    assert released == 2 * ROUNDS  # half of the four clients that train


def test_the_study_ends_with_a_scored_model(soaked):
    assert 0 < uar_of(soaked.run) <= 1
