"""Clients of a network over frames trained many at a time, held against each trained alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedser.client.models.attention import Attention, Attentive
from fedser.client.training import vmapped
from fedser.client.training.engine import STACKS
from fedser.client.training.vmapped import Vmapped
from tests.client.training.test_stacked import PLAIN, UDP, UNEQUAL, dataset, errors, train

ATTENTION = Attention(frame_units=[9, 5], attention_units=4, hidden=[6])


def dataset_of_frames(sizes, longest=6, dtype=torch.float64):
    """Sequences of 1 to so many frames, padded to two more."""
    generator = torch.Generator().manual_seed(1)
    data = dataset(sizes, dtype=dtype)
    count = len(data.labels)
    frames = torch.randn(count, longest + 2, 11, generator=generator, dtype=dtype)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator)
    frames[torch.arange(longest + 2) >= lengths[:, None]] = torch.nan
    return replace(data, features=frames)


@pytest.fixture
def stack(monkeypatch):
    """What GPUs train, on the CPU."""
    assert STACKS["attention", "cuda"] is Vmapped
    monkeypatch.setitem(STACKS, ("attention", "cpu"), Vmapped)


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
@pytest.mark.parametrize("mechanism", [PLAIN, UDP], ids=["plain", "udp"])
@pytest.mark.parametrize(
    ("algorithm", "epochs", "dropout"), [("fedavg", 1, 0.2), ("fedavg", 3, 0.0), ("fedsgd", 1, 0.2)]
)
def test_a_stack_over_frames_trains_each_client_as_if_alone(
    algorithm, epochs, dropout, mechanism, dtype, bound
):
    data = dataset_of_frames(UNEQUAL, dtype=dtype)
    model = replace(ATTENTION, dropout=dropout)
    keys = {"algorithm": algorithm, "mechanism": mechanism, "epochs": epochs, "model": model}
    stacked, losses = train("stacked", data, **keys)
    alone, expected = train("loop", data, **keys)
    assert errors(stacked, alone).max() < bound
    np.testing.assert_allclose(losses, expected, rtol=bound)


@pytest.mark.usefixtures("stack")
def test_how_many_clients_pass_the_network_at_once_does_not_matter(monkeypatch):
    data = dataset_of_frames(UNEQUAL)
    whole, losses = train("stacked", data, model=ATTENTION)
    monkeypatch.setattr(vmapped, "MOST_ROWS", 3 * 20 * 6)  # three full batches of six frames
    parts, again = train("stacked", data, model=ATTENTION, chunk=7)
    assert errors(parts, whole).max() < 1e-10
    np.testing.assert_allclose(again, losses, rtol=1e-10)


@pytest.mark.usefixtures("stack")
def test_no_gradient_is_taken_in_inference_mode(monkeypatch):
    forward, modes = Attentive.forward, []

    def noted(self, *given):
        modes.append(torch.is_inference_mode_enabled())
        return forward(self, *given)

    monkeypatch.setattr(Attentive, "forward", noted)
    train("stacked", dataset_of_frames(UNEQUAL), model=ATTENTION)
    assert modes and not any(modes)


def test_what_no_stack_pays_for_is_trained_one_by_one():
    data = dataset_of_frames(UNEQUAL, dtype=torch.float32)
    stacked, alone = (train(e, data, model=ATTENTION)[0] for e in ("stacked", "loop"))
    for name in alone:
        np.testing.assert_array_equal(stacked[name], alone[name])
        assert np.isfinite(alone[name]).all()
