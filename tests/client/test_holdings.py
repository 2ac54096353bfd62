"""The data of a real node, and its use in a federation."""

import numpy as np
import pytest

from fedser.client.holdings import Holdings
from fedser.client.speakers.clients import held_out_set, make_clients, training_sizes
from fedser.client.training.request import Hosting
from fedser.common.errors import UserError
from tests.examples import corpus, corpus_of_frames


def held(data, speakers):
    """The holdings of a node with these speakers of a corpus."""
    rows = [i for i, u in enumerate(data.utterances) if u.speaker in speakers]
    part = [data.utterances[i] for i in rows]
    own = type(data)(data.name, data.shards, part, data.features[rows], [], [])
    return Holdings(own, "made-up")


@pytest.mark.parametrize("made", [corpus, corpus_of_frames])
@pytest.mark.parametrize("normalisation", ["speaker", "none"])
def test_a_node_normalises_its_speakers_as_a_simulation_does(tmp_path, normalisation, made):
    data = made(speakers=6, shards=2)
    whole = make_clients(data, data.speakers[:4], 3, normalisation)
    held(data, ("s01", "s03", "s05")).save(tmp_path / "held")
    hosting = Hosting(((2, "s01", 0), (3, "s01", 1), (7, "s03", 1)), ("s05",), normalisation)
    own = Holdings.load(tmp_path / "held").federation_data(hosting, 3, "cpu")
    for client in (2, 3, 7):
        rows = (whole.client == client) & ~whole.validation
        np.testing.assert_array_equal(own.training[client].features, whole.features[rows])
        np.testing.assert_array_equal(own.training[client].labels, whole.labels[rows])
    assert own.training.sizes(range(8)).tolist() == [0, 0, *training_sizes(12, 2), 0, 0, 0, 5]
    assert whole.sizes().tolist() == 4 * training_sizes(12, 2)
    tested = held_out_set(data, ["s05"], whole, normalisation)
    np.testing.assert_array_equal(own.test.features, tested[0])
    np.testing.assert_array_equal(own.test.labels, tested[1])
    validated = np.isin(whole.client, (2, 3, 6, 7)) & whole.validation
    np.testing.assert_array_equal(own.validation.features, whole.features[validated])


def test_a_node_may_only_test_or_only_train(tmp_path):
    holdings = held(corpus(speakers=3), ("s00",))
    tests = holdings.federation_data(Hosting((), ("s00",), "speaker"), 0, "cpu")
    assert (len(tests.training[0]), len(tests.validation), len(tests.test)) == (0, 0, 12)
    trains = holdings.federation_data(Hosting(((1, "s00", 0),), (), "speaker"), 0, "cpu")
    assert (len(trains.training[1]), len(trains.validation), len(trains.test)) == (10, 2, 0)


def test_a_normalisation_over_other_nodes_is_rejected():
    holdings = held(corpus(speakers=3), ("s00",))
    with pytest.raises(UserError, match="normalisation=corpus"):
        holdings.federation_data(Hosting(((0, "s00", 0),), (), "corpus"), 0, "cpu")
