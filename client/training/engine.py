"""Local training of a node's clients: stacked, or one by one."""

from collections.abc import Sequence

import numpy as np

from fedser.client.models.base import ModelConfig, in_order
from fedser.client.privacy.base import Mechanism
from fedser.client.training.batches import Batches
from fedser.client.training.canary import canary_update
from fedser.client.training.compiled import Compiled
from fedser.client.training.dataset import Dataset
from fedser.client.training.draws import Draws, client_keys
from fedser.client.training.local import fedavg_update, fedsgd_gradient
from fedser.client.training.stacked import Stack
from fedser.client.training.vmapped import Vmapped
from fedser.common.arrays import Arrays
from fedser.common.buffers import borrow, split
from fedser.common.seeds import NoiseSource
from fedser.conf.training_keys import TrainingConfig

ENGINES = ("stacked", "loop")

STACKS: dict[tuple[str, str], type[Compiled | Stack]] = {
    ("mlp", "cpu"): Compiled,
    ("mlp", "cuda"): Stack,
    ("attention", "cuda"): Vmapped,
}
"""What trains many clients at a time, by model and kind of device; elsewhere it would not pay."""

TRAINERS = {"fedavg": fedavg_update, "fedsgd": fedsgd_gradient, "canary": canary_update}
"""What a client computes, by algorithm."""


class Training:
    """k clients about to train from the same weights, any of them at a time.

    They are stacked where `config.engine` says so and `STACKS` knows how, unless each utterance's
    gradient is clipped, or they are canaries.

    Parameters
    ----------
    algorithm : str
        ``fedavg``, ``fedsgd`` or ``canary``.
    mechanism : Mechanism
        Bounds gradients in training, and protects what comes of it.
    seed : int
    stream : sequence of str or int
        Names the clients' random streams, together with `seed` and each client.
    noises : sequence of NoiseSource, length k
        Where each client's noise comes from.

    Attributes
    ----------
    updates : Arrays
        What each client computed (k, ...), once it has trained.
    sizes : list of int
        Each client's number of utterances.
    """

    def __init__(
        self,
        algorithm: str,
        model: ModelConfig,
        start: Arrays,
        data: Dataset,
        clients: Sequence[int],
        config: TrainingConfig,
        mechanism: Mechanism,
        seed: int,
        stream: Sequence[str | int],
        noises: Sequence[NoiseSource],
    ) -> None:
        self._trainer, self._clients, self._mechanism = TRAINERS[algorithm], clients, mechanism
        start = in_order(start)
        self._model, self._start, self._data, self._config = model, start, data, config
        self.sizes = data.sizes(clients).tolist()
        size = sum(array.size for array in start.values())
        into = borrow((len(clients) * size,), np.result_type(*start.values()))
        self.updates = split(into, len(clients), start)
        keys = client_keys(seed, clients, "training", *stream).to(data.features.device)
        self._draws = Draws(keys, model.dropout)
        self._noises = noises
        self._stack, clip = None, mechanism.gradient
        kind = STACKS.get((model.name, data.features.device.type))
        stackable = algorithm != "canary" and (clip is None or clip.per == "batch")
        if config.engine == "stacked" and stackable and kind:
            bound = clip.norm if clip else None
            epochs = config.epochs if algorithm == "fedavg" else 1
            batches = Batches.draw(data, clients, config.batch_size, epochs, self._draws)
            self._stack = kind(
                algorithm, model, start, data, batches, config, self._draws, bound, into
            )

    def train(self, chunk: slice) -> list[float]:
        """Train some of the clients, and return the loss of each."""
        if self._stack:
            return self._stack.train(chunk)
        return [self._train_one(row) for row in range(len(self._clients))[chunk]]

    def protect(self, chunk: slice, updates: Arrays) -> None:
        """Put in place of some clients' rows of k updates (k, ...) what may leave each device."""
        for row in range(len(self._clients))[chunk]:
            update = {name: array[row] for name, array in updates.items()}
            sent = self._mechanism.protect(update, self.sizes[row], self._noises[row])
            for name, array in sent.items():
                if array is not update[name]:
                    update[name][...] = array

    def _train_one(self, row: int) -> float:
        update, loss = self._trainer(
            self._model,
            self._start,
            self._data[self._clients[row]],
            self._config,
            Draws(self._draws.keys[row : row + 1], self._draws.dropout),
            self._mechanism.gradient,
            self._noises[row],
        )
        for name, array in update.items():
            self.updates[name][row] = array
        return loss
