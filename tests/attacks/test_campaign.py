import numpy as np

from attacks.campaign import _score_victims
from attacks.statistics import Statistics
from client.app import app as client_app
from server.app import federate
from server.grid import LocalGrid
from server.transcript import Transcript
from tests.examples import federation


class Sender(Statistics):
    """Scores an update by a number of its own, to see where it ends up."""

    name = "sender"

    def score(self, features):
        return features[:, 0]


def test_every_victims_update_is_scored_with_its_client_and_round(tmp_path):
    folder = tmp_path / "transcript" / "private-fold0"
    federate(LocalGrid(client_app), federation(folder, rounds=3), tmp_path, "cpu")
    attack = Sender(1.0)
    found = _score_victims([attack], tmp_path)["sender"]
    assert list(found) == ["federation", "client", "round", "score"]
    (stored,) = Transcript(folder)
    assert set(found["round"]) == {1, 2, 3}
    np.testing.assert_array_equal(found["client"], stored.client)
    np.testing.assert_array_equal(found["round"], stored.round)
