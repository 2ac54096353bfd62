import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedser.client.app import app
from fedser.client.holdings import Holdings
from fedser.client.messages import from_record, to_record
from fedser.client.models.base import initial_arrays, load_arrays
from fedser.client.models.mlp import Mlp
from fedser.client.speakers.clients import held_out_set, make_clients, training_sizes
from fedser.client.training.dataset import Dataset
from fedser.client.training.engine import Training
from fedser.client.training.request import Hosting, TrainRequest
from fedser.common.errors import UserError
from tests.examples import ATTENTION, NoNoise, corpus, corpus_of_frames, federation


def held(data, speakers):
    """The part of a corpus that a node with these speakers holds."""
    rows = [i for i, u in enumerate(data.utterances) if u.speaker in speakers]
    part = [data.utterances[i] for i in rows]
    own = type(data)(data.name, data.shards, part, data.features[rows], [], [])
    return Holdings(own, "made-up")


@pytest.mark.parametrize("made", [corpus, corpus_of_frames])
@pytest.mark.parametrize("normalisation", ["speaker", "none"])
def test_a_node_cuts_and_normalises_its_speakers_as_a_simulation_does(
    tmp_path, normalisation, made
):
    data = made(speakers=6, shards=2)
    whole = make_clients(data, data.speakers[:4], 3, normalisation)
    held(data, ("s01", "s03", "s05")).save(tmp_path / "held")
    hosting = Hosting(((2, "s01", 0), (3, "s01", 1), (7, "s03", 1)), ("s05",), normalisation)
    own = Holdings.load(tmp_path / "held").hosted(hosting, 3, "cpu")
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
    tests = holdings.hosted(Hosting((), ("s00",), "speaker"), 0, "cpu")
    assert (len(tests.training[0]), len(tests.validation), len(tests.test)) == (0, 0, 12)
    trains = holdings.hosted(Hosting(((1, "s00", 0),), (), "speaker"), 0, "cpu")
    assert (len(trains.training[1]), len(trains.validation), len(trains.test)) == (10, 2, 0)


def test_statistics_of_other_nodes_are_refused():
    holdings = held(corpus(speakers=3), ("s00",))
    with pytest.raises(UserError, match="normalisation=corpus"):
        holdings.hosted(Hosting(((0, "s00", 0),), (), "corpus"), 0, "cpu")


def ask(holdings, request, arrays, tmp_path):
    holdings.save(tmp_path / "secret-name")
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
    node = {"holdings": str(tmp_path / "secret-name"), "device": "cpu"}
    config = ConfigRecord({"request": request.to_json()})
    content = RecordDict({"arrays": to_record(arrays), "config": config})
    message = Message(content, 1, "train")
    return app(message, Context(1, 1, node, RecordDict(), {}))


def request_of(hosting, clients, dataset=None):
    protocol = federation(None).protocol
    asked = protocol.train_request("f", "fedavg", dataset, "cpu", 1, clients)
    return replace(asked, hosting=hosting)


def weights():
    arrays = initial_arrays(Mlp(hidden=[8, 6]), 12, 4, 0)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def test_a_node_evaluates_what_it_is_sent(tmp_path):
    data = corpus(speakers=4)
    hosting = Hosting(((0, "s00", 0), (1, "s01", 0)), ("s02",), "speaker")
    holdings = held(data, ("s00", "s01", "s02"))
    reply = ask(holdings, request_of(hosting, (1,)), weights(), tmp_path)
    own = holdings.hosted(hosting, 0, "cpu")
    first, second, last = (torch.from_numpy(weights()[f"dense.{i}.weight"]).T for i in range(3))
    biases = [torch.from_numpy(weights()[f"dense.{i}.bias"]) for i in range(3)]
    for name, examples in (("validation", own.validation), ("test", own.test)):
        hidden = torch.relu(examples.features @ first + biases[0])
        scores = torch.relu(hidden @ second + biases[1]) @ last + biases[2]
        expected = np.zeros((4, 4), int)
        np.add.at(expected, (examples.labels, scores.argmax(1)), 1)
        assert list(reply.content["evaluation"][name]) == expected.ravel().tolist()
    assert reply.content["metrics"]["clients"] == [1]
    evaluated = ask(holdings, request_of(hosting, ()), weights(), tmp_path).content
    assert set(evaluated) == {"evaluation"}


def test_a_node_of_frames_sends_what_a_simulation_does(tmp_path):
    data = corpus_of_frames(speakers=4)
    hosting = Hosting(((0, "s00", 0), (1, "s01", 0)), ("s02",), "speaker")
    holdings = held(data, ("s00", "s01", "s02"))
    assert holdings.roster["dimension"] == 12
    asked = replace(request_of(hosting, (1,)), model=ATTENTION)
    start = initial_arrays(ATTENTION, 12, 4, 0)
    reply = ask(holdings, asked, start, tmp_path).content
    whole = make_clients(data, ["s00", "s01"], asked.seed, "speaker")
    whole.save_training(tmp_path / "whole")
    dataset = Dataset.load(tmp_path / "whole", "cpu")
    stream = (asked.federation, asked.round)
    arguments = (asked.training, asked.mechanism, asked.seed, stream, [NoNoise()])
    training = Training("fedavg", ATTENTION, start, dataset, [1], *arguments)
    training.train(slice(None))
    for name, sent in from_record(reply["arrays"]).items():
        np.testing.assert_array_equal(sent, training.updates[name])
    model = ATTENTION.network(12, 4)
    load_arrays(model, start)
    features, labels = held_out_set(data, ["s02"], whole, "speaker")
    expected = np.zeros((4, 4), int)
    np.add.at(expected, (labels, model(torch.from_numpy(features)).argmax(1)), 1)
    assert list(reply["evaluation"]["test"]) == expected.ravel().tolist()


@pytest.mark.parametrize("request_", ["path", "stranger"])
def test_a_failure_names_no_file_and_a_message_cannot(tmp_path, request_):
    holdings = held(corpus(speakers=2), ("s00",))
    dataset = str(tmp_path / "other.safetensors")
    asked = {
        "path": request_of(None, (0,), dataset),
        "stranger": request_of(Hosting(((0, "s09", 0),), (), "speaker"), (0,)),
    }[request_]
    with pytest.raises(RuntimeError) as failure:
        ask(holdings, asked, weights(), tmp_path)
    kind = {"path": "ValueError", "stranger": "KeyError"}[request_]
    assert str(failure.value) == f"{kind}: the node's own log says more"


@pytest.mark.parametrize("model", [ATTENTION, Mlp(hidden=[3])])
def test_a_request_reads_back_as_it_was_written(model):
    asked = replace(request_of(Hosting(((0, "s00", 0),), ("s01",), "none"), (0,)), model=model)
    assert TrainRequest.from_json(asked.to_json()) == asked
    json.loads(asked.to_json())
