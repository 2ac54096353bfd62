"""Clients trained many at a time, compared with each client trained alone."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedser.client.privacy.dp_sgd import DPSGD
from fedser.client.training.compiled import CompiledTrainer
from fedser.client.training.engine import MULTI_CLIENT_TRAINERS, LocalTraining
from fedser.client.training.stacked import StackedTrainer
from fedser.common.errors import UserError
from fedser.common.seeds import noise_source
from tests.client.training.many_clients import PLAIN, UDP, UNEQUAL, begin, dataset, errors, train


@pytest.fixture(params=[CompiledTrainer, StackedTrainer], autouse=True)
def kind(request, monkeypatch):
    """Both ways to train many clients, on the CPU."""
    monkeypatch.setitem(MULTI_CLIENT_TRAINERS, ("mlp", "cpu"), request.param)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
@pytest.mark.parametrize("mechanism", [PLAIN, UDP], ids=["plain", "udp"])
@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_each_client_is_trained_as_if_alone(algorithm, epochs, mechanism, dtype, bound):
    data = dataset(UNEQUAL, dtype=dtype)
    keys = {"algorithm": algorithm, "mechanism": mechanism, "epochs": epochs}
    stacked, losses = train("stacked", data, **keys)
    alone, expected = train("loop", data, **keys)
    assert errors(stacked, alone).max() < bound
    np.testing.assert_allclose(losses, expected, rtol=bound)


@pytest.mark.parametrize("mechanism", [PLAIN, UDP], ids=["plain", "udp"])
def test_each_client_is_trained_as_if_alone_at_study_size(mechanism):
    data = dataset([26, 31, 12], dimension=988, dtype=torch.float32)
    stacked, alone = (
        train(engine, data, hidden=(256, 128), mechanism=mechanism)[0]
        for engine in ("stacked", "loop")
    )
    assert errors(stacked, alone).max() < 1e-3


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    batch_size=st.integers(1, 32),
    epochs=st.integers(1, 3),
    hidden=st.lists(st.integers(1, 8), max_size=3),
    dropout=st.sampled_from([0.0, 0.6]),
)
def test_any_sizes_and_networks_train_as_if_alone(sizes, batch_size, epochs, hidden, dropout):
    keys = {"batch_size": batch_size, "epochs": epochs, "hidden": hidden, "dropout": dropout}
    stacked, alone = (train(engine, dataset(sizes), **keys)[0] for engine in ("stacked", "loop"))
    # Dropout may drop all units of a small network: then there is no norm to divide by.
    for name in alone:
        np.testing.assert_allclose(stacked[name], alone[name], atol=1e-9)


def test_an_update_does_not_depend_on_the_other_clients():
    data = dataset(UNEQUAL)
    together, losses = train("stacked", data)
    some, own = train("stacked", data, clients=[5, 2])
    for name in together:
        np.testing.assert_allclose(some[name], together[name][[5, 2]], rtol=1e-9, atol=1e-15)
    assert own == pytest.approx([losses[5], losses[2]])


@pytest.mark.parametrize("chunk", [1, 3, 5])
@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_an_update_does_not_depend_on_the_chunks(chunk, algorithm):
    data = dataset(UNEQUAL)
    whole, losses = train("stacked", data, algorithm=algorithm, epochs=2)
    cut, again = train("stacked", data, algorithm=algorithm, epochs=2, chunk=chunk)
    assert errors(cut, whole).max() < 1e-10
    np.testing.assert_allclose(again, losses, rtol=1e-10)


def test_threads_do_not_disturb_each_other():
    data = dataset(UNEQUAL)
    expected, _ = train("stacked", data)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: train("stacked", data)[0], range(16)))
    for updates in found:
        for name in expected:
            np.testing.assert_array_equal(updates[name], expected[name])


def test_clipping_per_utterance_trains_clients_one_by_one():
    data, mechanism = dataset([9, 4], dtype=torch.float32), DPSGD(False, 0.5, 1.0)
    stacked, alone = (train(engine, data, mechanism=mechanism)[0] for engine in ("stacked", "loop"))
    for name in alone:
        np.testing.assert_array_equal(stacked[name], alone[name])


def test_each_client_is_protected_with_its_own_noise():
    training = begin("stacked", dataset([9, 40], dtype=torch.float32), mechanism=UDP)
    plain = training.updates
    training.train(slice(None))
    sent = {name: array.copy() for name, array in plain.items()}
    for chunk in (slice(0, 1), slice(1, 2)):
        training.protect(chunk, sent)
    for row, size in enumerate((9, 40)):
        own = {name: array[row] for name, array in plain.items()}
        expected = UDP.protect(own, size, noise_source(3, "noise", "f", row))
        for name in own:
            np.testing.assert_array_equal(sent[name][row], expected[name])


def test_an_unknown_algorithm_is_rejected():
    task = begin("stacked", dataset([9])).task
    with pytest.raises(UserError, match="algorithm=os.system is not one of fedavg, fedsgd, canary"):
        LocalTraining(replace(task, algorithm="os.system"))
