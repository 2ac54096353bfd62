"""The ClientApp: compilation before the first message, division of work, and replies."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedser.client import app as app_module
from fedser.client.app import app
from fedser.client.corpora.base import EMOTIONS
from fedser.client.messages import from_record, to_record, to_session
from fedser.client.models.base import initial_arrays, load_arrays
from fedser.client.models.mlp import Mlp
from fedser.client.secure_aggregation.session import Refused, Session
from fedser.client.speakers.clients import held_out_set, make_clients
from fedser.client.training.dataset import Dataset
from fedser.client.training.engine import LocalTraining
from fedser.client.training.request import Hosting, TrainRequest
from fedser.client.training.task import LocalTask
from fedser.conf.training_keys import TrainingConfig
from tests.client.test_holdings import held
from tests.client.training.many_clients import UDP, dataset
from tests.examples import ATTENTION, DISTRIBUTED, NoNoise, corpus, corpus_of_frames, federation

SCRIPT = """
from pathlib import Path
from fedser.client.training import compiled
from fedser.client.app import app, warm_up
from fedser.server.app import federate
from fedser.server.grids.local import LocalGrid
from tests.examples import UDP, federation

def signatures():  # of the module's own functions: the server compiles imported ones for itself
    found = vars(compiled).items()
    return {n: f.signatures for n, f in found if getattr(f, "__module__", "") == compiled.__name__
            and hasattr(f, "signatures")}

assert not any(signatures().values())
warm_up("cpu")
before = signatures()
assert before["_train"]
for name, changes in {"plain": {}, "clipped": {"privacy": UDP}}.items():
    folder = Path(sys.argv[1]) / name
    folder.mkdir()
    federate(LocalGrid(app), federation(folder, rounds=1, **changes), folder, "cpu")
assert signatures() == before
"""


def test_no_message_waits_for_a_compiler(tmp_path):
    command = [sys.executable, "-c", "import sys\n" + SCRIPT, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_updates_of_one_gpu_chunk_are_protected_in_chunks(monkeypatch):
    """The data lies on the CPU: the division of work depends only on the device's name."""
    sizes = [3, 9, 26, 1] * 16
    data = dataset(sizes, dtype=torch.float32)
    model, trained, protected = Mlp(hidden=[5]), [], []
    train, protect = LocalTraining.train, LocalTraining.protect

    def recorded_train(self, chunk):
        trained.append(chunk)
        return train(self, chunk)

    def recorded_protect(self, chunk, updates):
        protected.append(chunk)
        protect(self, chunk, updates)

    monkeypatch.setattr(LocalTraining, "train", recorded_train)
    monkeypatch.setattr(LocalTraining, "protect", recorded_protect)
    replies = {}
    for device in ("cpu", "cuda"):
        clients = tuple(range(len(sizes)))
        about = ("fedavg", model, TrainingConfig(), UDP)
        request = TrainRequest("f", 1, 0, clients, None, device, *about, noise_seed=0)
        start = initial_arrays(model, 30, len(EMOTIONS), 0)
        trained.clear()
        protected.clear()
        noises = app_module._simulated_noises(request)
        task = app_module._local_task(request, start, data, noises)
        replies[device] = app_module._train(task, device, 2)
    assert trained == [slice(0, 64)]
    assert sorted(protected, key=lambda part: part.start) == [slice(0, 32), slice(32, 64)]
    found, expected = (from_record(replies[d].array_records["arrays"]) for d in ("cuda", "cpu"))
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    assert replies["cuda"]["metrics"] == replies["cpu"]["metrics"]


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


def test_a_node_evaluates_the_model_it_receives(tmp_path):
    data = corpus(speakers=4)
    hosting = Hosting(((0, "s00", 0), (1, "s01", 0)), ("s02",), "speaker")
    holdings = held(data, ("s00", "s01", "s02"))
    reply = ask(holdings, request_of(hosting, (1,)), weights(), tmp_path)
    own = holdings.federation_data(hosting, 0, "cpu")
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


def test_a_node_with_frames_sends_what_a_simulation_sends(tmp_path):
    data = corpus_of_frames(speakers=4)
    hosting = Hosting(((0, "s00", 0), (1, "s01", 0)), ("s02",), "speaker")
    holdings = held(data, ("s00", "s01", "s02"))
    assert holdings.roster["dimension"] == 12
    asked = replace(request_of(hosting, (1,)), model=ATTENTION)
    start = initial_arrays(ATTENTION, 12, 4, 0)
    reply = ask(holdings, asked, start, tmp_path).content
    whole = make_clients(data, ["s00", "s01"], asked.seed, "speaker")
    whole.save_training(tmp_path / "whole")
    task = LocalTask(
        algorithm="fedavg",
        model=ATTENTION,
        start=start,
        training=asked.training,
        mechanism=asked.mechanism,
        data=Dataset.load(tmp_path / "whole", "cpu"),
        clients=[1],
        seed=asked.seed,
        stream=(asked.federation, asked.round),
        noises=[NoNoise()],
    )
    training = LocalTraining(task)
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
def test_an_error_names_no_file_and_a_message_opens_none(tmp_path, request_):
    holdings = held(corpus(speakers=2), ("s00",))
    other_file = str(tmp_path / "other.safetensors")
    asked = {
        "path": request_of(None, (0,), other_file),
        "stranger": request_of(Hosting(((0, "s09", 0),), (), "speaker"), (0,)),
    }[request_]
    with pytest.raises(RuntimeError) as failure:
        ask(holdings, asked, weights(), tmp_path)
    kind = {"path": "ValueError", "stranger": "KeyError"}[request_]
    assert str(failure.value) == f"{kind}: the node's own log says more"


def test_a_sum_that_may_be_opened_with_less_noise_gets_no_update():
    """The noise is for six of eight clients, and the session for five."""
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
    made = federation(None, privacy=DISTRIBUTED, fraction=1.0)
    request = made.protocol.train_request("f", "fedavg", None, "cpu", 1, (0,))
    mechanism = request.mechanism
    assert (mechanism.cohort, mechanism.min_clients) == (8, 6)
    for session in (Session("f", 1, 0, 8, 5), Session("f", 1, 0, 7, 6)):
        content = RecordDict({"session": to_session(session)})
        with pytest.raises(Refused, match="and the noise is for 6 of 8"):
            app_module._masking(Message(content, 1, "train"), None, request)
    plain = replace(request, mechanism=replace(mechanism, masked=False))
    assert app_module._masking(Message(RecordDict(), 1, "train"), None, plain) is None
