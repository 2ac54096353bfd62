"""What a node does before its first message, and how it shares out its work."""

import subprocess
import sys

import numpy as np
import torch

from fedser.client import app
from fedser.client.corpora.base import EMOTIONS
from fedser.client.messages import from_record
from fedser.client.models.base import initial_arrays
from fedser.client.models.mlp import Mlp
from fedser.client.training.engine import Training
from fedser.client.training.request import TrainRequest
from fedser.conf.training_keys import TrainingConfig
from tests.client.training.test_stacked import UDP, dataset

SCRIPT = """
from pathlib import Path
from fedser.client.training import compiled
from fedser.client.app import app, warm_up
from fedser.server.app import federate
from fedser.server.grids.local import LocalGrid
from tests.examples import UDP, federation

def signatures():
    return {name: f.signatures for name, f in vars(compiled).items() if hasattr(f, "signatures")}

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


def test_what_a_gpu_trains_in_one_piece_is_protected_in_parts(monkeypatch):
    """On the CPU's data, for how work is shared out depends on the named device alone."""
    sizes = [3, 9, 26, 1] * 16
    held = dataset(sizes, dtype=torch.float32)
    model, trained, protected = Mlp(hidden=[5]), [], []
    train, protect = Training.train, Training.protect

    def noted_train(self, chunk):
        trained.append(chunk)
        return train(self, chunk)

    def noted_protect(self, chunk, updates):
        protected.append(chunk)
        protect(self, chunk, updates)

    monkeypatch.setattr(Training, "train", noted_train)
    monkeypatch.setattr(Training, "protect", noted_protect)
    replies = {}
    for device in ("cpu", "cuda"):
        clients = tuple(range(len(sizes)))
        about = ("fedavg", model, TrainingConfig(), UDP)
        request = TrainRequest("f", 1, 0, clients, None, device, *about, noise_seed=0)
        start = initial_arrays(model, 30, len(EMOTIONS), 0)
        trained.clear()
        protected.clear()
        noises = app._simulated_noises(request)
        replies[device] = app._train(request, start, held, device, 2, noises)
    assert trained == [slice(0, 64)]
    assert sorted(protected, key=lambda part: part.start) == [slice(0, 32), slice(32, 64)]
    found, expected = (from_record(replies[d].array_records["arrays"]) for d in ("cuda", "cpu"))
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    assert replies["cuda"]["metrics"] == replies["cpu"]["metrics"]
