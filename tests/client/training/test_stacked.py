"""Clients trained many at a time, held against each trained alone."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedser.client.models.base import initial_arrays
from fedser.client.models.mlp import Mlp
from fedser.client.privacy.base import NoMechanism
from fedser.client.privacy.dp_sgd import DPSGD
from fedser.client.privacy.user_level import UserLevelDP
from fedser.client.training.compiled import Compiled
from fedser.client.training.dataset import Dataset, Examples
from fedser.client.training.engine import STACKS, Training
from fedser.client.training.stacked import Stack
from fedser.common.seeds import noise_source
from fedser.conf.training_keys import TrainingConfig

UNEQUAL = (26, 1, 45, 20, 7, 21, 40, 1)
PLAIN = NoMechanism()
UDP = UserLevelDP(0.25, 0.1, 200, 25.0, 0.5)


def dataset(sizes, dimension=30, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return Dataset.of(
        [
            Examples(
                torch.randn(n, dimension, generator=generator, dtype=dtype),
                torch.randint(0, 4, (n,), generator=generator),
            )
            for n in sizes
        ]
    )


def train(engine, data, *, chunk=99, **options):
    """Updates and losses of some clients, in the precision of their features."""
    training, into = begin(engine, data, **options)
    count = len(training.sizes)
    chunks = [slice(i, i + chunk) for i in range(0, count, chunk)]
    return into, [loss for part in chunks for loss in training.train(part)]


def begin(
    engine,
    data,
    *,
    clients=None,
    algorithm="fedavg",
    mechanism=PLAIN,
    hidden=(9, 6),
    model=None,
    **changes,
):
    clients = list(range(len(data))) if clients is None else clients
    model = model or Mlp(hidden=list(hidden), dropout=changes.pop("dropout", 0.2))
    dtype = data.features.numpy().dtype
    drawn = initial_arrays(model, data.features.shape[-1], 4, seed=1)
    start = {name: array.astype(dtype) for name, array in drawn.items()}
    training = Training(
        algorithm,
        model,
        start,
        data,
        clients,
        TrainingConfig(engine=engine, **changes),
        mechanism,
        3,
        ["f"],
        [noise_source(3, "noise", "f", client) for client in clients],
    )
    for array in training.updates.values():
        array[...] = np.nan
    return training, training.updates


def errors(stacked, alone):
    """Distance of each client's updates over the norm of the second."""

    def norms(updates):
        flat = [a.reshape(len(a), -1).astype(np.float64) for a in updates.values()]
        return np.linalg.norm(np.concatenate(flat, axis=1), axis=1)

    return norms({name: stacked[name] - alone[name] for name in alone}) / norms(alone)


@pytest.fixture(params=[Compiled, Stack], autouse=True)
def kind(request, monkeypatch):
    """Both ways to train many clients, on the CPU."""
    monkeypatch.setitem(STACKS, ("mlp", "cpu"), request.param)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-3)])
@pytest.mark.parametrize("mechanism", [PLAIN, UDP], ids=["plain", "udp"])
@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_a_stack_trains_each_client_as_if_alone(algorithm, epochs, mechanism, dtype, bound):
    data = dataset(UNEQUAL, dtype=dtype)
    keys = {"algorithm": algorithm, "mechanism": mechanism, "epochs": epochs}
    stacked, losses = train("stacked", data, **keys)
    alone, expected = train("loop", data, **keys)
    assert errors(stacked, alone).max() < bound
    np.testing.assert_allclose(losses, expected, rtol=bound)


@pytest.mark.parametrize("mechanism", [PLAIN, UDP], ids=["plain", "udp"])
def test_at_the_size_of_the_study_too(mechanism):
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
def test_for_any_sizes_batches_and_networks(sizes, batch_size, epochs, hidden, dropout):
    keys = {"batch_size": batch_size, "epochs": epochs, "hidden": hidden, "dropout": dropout}
    stacked, alone = (train(engine, dataset(sizes), **keys)[0] for engine in ("stacked", "loop"))
    # Dropout may leave nothing of a small network: no gradient, and no norm to divide by.
    for name in alone:
        np.testing.assert_allclose(stacked[name], alone[name], atol=1e-9)


def test_a_client_gets_the_same_in_any_company():
    data = dataset(UNEQUAL)
    together, losses = train("stacked", data)
    some, own = train("stacked", data, clients=[5, 2])
    for name in together:
        np.testing.assert_allclose(some[name], together[name][[5, 2]], rtol=1e-9, atol=1e-15)
    assert own == pytest.approx([losses[5], losses[2]])


@pytest.mark.parametrize("chunk", [1, 3, 5])
@pytest.mark.parametrize("algorithm", ["fedavg", "fedsgd"])
def test_how_a_stack_is_cut_into_chunks_does_not_matter(chunk, algorithm):
    data = dataset(UNEQUAL)
    whole, losses = train("stacked", data, algorithm=algorithm, epochs=2)
    cut, again = train("stacked", data, algorithm=algorithm, epochs=2, chunk=chunk)
    assert errors(cut, whole).max() < 1e-10
    np.testing.assert_allclose(again, losses, rtol=1e-10)


def test_stacks_are_trained_in_threads_without_getting_in_each_others_way():
    data = dataset(UNEQUAL)
    expected, _ = train("stacked", data)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: train("stacked", data)[0], range(16)))
    for updates in found:
        for name in expected:
            np.testing.assert_array_equal(updates[name], expected[name])


def test_what_clips_each_utterance_is_trained_one_by_one():
    data, mechanism = dataset([9, 4], dtype=torch.float32), DPSGD(False, 0.5, 1.0)
    stacked, alone = (train(engine, data, mechanism=mechanism)[0] for engine in ("stacked", "loop"))
    for name in alone:
        np.testing.assert_array_equal(stacked[name], alone[name])


def test_each_client_is_protected_by_itself():
    training, plain = begin("stacked", dataset([9, 40], dtype=torch.float32), mechanism=UDP)
    training.train(slice(None))
    sent = {name: array.copy() for name, array in plain.items()}
    for chunk in (slice(0, 1), slice(1, 2)):
        training.protect(chunk, sent)
    for row, size in enumerate((9, 40)):
        own = {name: array[row] for name, array in plain.items()}
        expected = UDP.protect(own, size, noise_source(3, "noise", "f", row))
        for name in own:
            np.testing.assert_array_equal(sent[name][row], expected[name])
