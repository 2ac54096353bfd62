"""Training of many clients at a time, which several tests share."""

import numpy as np
import torch

from fedser.client.models.base import initial_arrays
from fedser.client.models.mlp import Mlp
from fedser.client.privacy.base import NoMechanism
from fedser.client.privacy.user_level import UserLevelDP
from fedser.client.training.dataset import Dataset, Examples
from fedser.client.training.engine import LocalTraining
from fedser.client.training.task import LocalTask
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
    training = begin(engine, data, **options)
    count = len(training.sizes)
    chunks = [slice(i, i + chunk) for i in range(0, count, chunk)]
    return training.updates, [loss for part in chunks for loss in training.train(part)]


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
    """Training that has not begun, with updates of NaN."""
    clients = list(range(len(data))) if clients is None else clients
    model = model or Mlp(hidden=list(hidden), dropout=changes.pop("dropout", 0.2))
    dtype = data.features.numpy().dtype
    drawn = initial_arrays(model, data.features.shape[-1], 4, seed=1)
    task = LocalTask(
        algorithm=algorithm,
        model=model,
        start={name: array.astype(dtype) for name, array in drawn.items()},
        training=TrainingConfig(engine=engine, **changes),
        mechanism=mechanism,
        data=data,
        clients=clients,
        seed=3,
        stream=["f"],
        noises=[noise_source(3, "noise", "f", client) for client in clients],
    )
    training = LocalTraining(task)
    for array in training.updates.values():
        array[...] = np.nan
    return training


def errors(stacked, alone):
    """Distance of each client's updates over the norm of the second."""

    def norms(updates):
        flat = [a.reshape(len(a), -1).astype(np.float64) for a in updates.values()]
        return np.linalg.norm(np.concatenate(flat, axis=1), axis=1)

    return norms({name: stacked[name] - alone[name] for name in alone}) / norms(alone)
