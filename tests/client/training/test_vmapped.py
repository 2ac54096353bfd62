"""Clients with frames trained many at a time, compared with each client trained alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedser.client.models.attention import Attention, Attentive
from fedser.client.training import vmapped
from fedser.client.training.engine import MULTI_CLIENT_TRAINERS
from fedser.client.training.vmapped import VmappedTrainer
from tests.client.training.many_clients import PLAIN, UDP, UNEQUAL, dataset, errors, train

ATTENTION = Attention(frame_units=[9, 5], attention_units=4, hidden=[6])


def dataset_of_frames(sizes, longest=6, dtype=torch.float64):
    """Sequences of 1 to `longest` frames, padded to two more."""
    generator = torch.Generator().manual_seed(1)
    data = dataset(sizes, dtype=dtype)
    count = len(data.labels)
    frames = torch.randn(count, longest + 2, 11, generator=generator, dtype=dtype)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator)
    frames[torch.arange(longest + 2) >= lengths[:, None]] = torch.nan
    return replace(data, features=frames)


@pytest.fixture
def trainer_of_gpus(monkeypatch):
    """Use the trainer of GPUs on the CPU."""
    assert MULTI_CLIENT_TRAINERS["attention", "cuda"] is VmappedTrainer
    monkeypatch.setitem(MULTI_CLIENT_TRAINERS, ("attention", "cpu"), VmappedTrainer)


@pytest.mark.usefixtures("trainer_of_gpus")
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
@pytest.mark.parametrize("mechanism", [PLAIN, UDP], ids=["plain", "udp"])
@pytest.mark.parametrize(
    ("algorithm", "epochs", "dropout"), [("fedavg", 1, 0.2), ("fedavg", 3, 0.0), ("fedsgd", 1, 0.2)]
)
def test_each_client_with_frames_is_trained_as_if_alone(
    algorithm, epochs, dropout, mechanism, dtype, bound
):
    data = dataset_of_frames(UNEQUAL, dtype=dtype)
    model = replace(ATTENTION, dropout=dropout)
    keys = {"algorithm": algorithm, "mechanism": mechanism, "epochs": epochs, "model": model}
    stacked, losses = train("stacked", data, **keys)
    alone, expected = train("loop", data, **keys)
    assert errors(stacked, alone).max() < bound
    np.testing.assert_allclose(losses, expected, rtol=bound)


@pytest.mark.usefixtures("trainer_of_gpus")
def test_an_update_does_not_depend_on_rows_per_pass(monkeypatch):
    data = dataset_of_frames(UNEQUAL)
    whole, losses = train("stacked", data, model=ATTENTION)
    monkeypatch.setattr(vmapped, "MOST_ROWS", 3 * 20 * 6)  # three full batches of six frames
    parts, again = train("stacked", data, model=ATTENTION, chunk=7)
    assert errors(parts, whole).max() < 1e-10
    np.testing.assert_allclose(again, losses, rtol=1e-10)


@pytest.mark.usefixtures("trainer_of_gpus")
def test_no_gradient_is_taken_in_inference_mode(monkeypatch):
    forward, modes = Attentive.forward, []

    def recorded(self, *arguments):
        modes.append(torch.is_inference_mode_enabled())
        return forward(self, *arguments)

    monkeypatch.setattr(Attentive, "forward", recorded)
    train("stacked", dataset_of_frames(UNEQUAL), model=ATTENTION)
    assert modes and not any(modes)


def test_frames_on_a_cpu_are_trained_one_client_at_a_time():
    data = dataset_of_frames(UNEQUAL, dtype=torch.float32)
    stacked, alone = (train(e, data, model=ATTENTION)[0] for e in ("stacked", "loop"))
    for name in alone:
        np.testing.assert_array_equal(stacked[name], alone[name])
        assert np.isfinite(alone[name]).all()
