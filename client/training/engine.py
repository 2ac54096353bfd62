"""Local training of a node's clients: many at a time, or one by one."""

from dataclasses import replace

import numpy as np

from fedser.client.models.base import in_order
from fedser.client.privacy.distributed import DistributedDP
from fedser.client.training.canary import canary_update
from fedser.client.training.compiled import CompiledTrainer
from fedser.client.training.local import fedavg_update, fedsgd_gradient
from fedser.client.training.stacked import StackedTrainer
from fedser.client.training.task import LocalTask
from fedser.client.training.vmapped import VmappedTrainer
from fedser.common.arrays import Arrays
from fedser.common.buffers import borrow, split
from fedser.common.errors import check_choice

ENGINES = ("stacked", "loop")
"""Values of ``training.engine``."""

MULTI_CLIENT_TRAINERS: dict[tuple[str, str], type[CompiledTrainer | StackedTrainer]] = {
    ("mlp", "cpu"): CompiledTrainer,
    ("mlp", "cuda"): StackedTrainer,
    ("linear", "cpu"): CompiledTrainer,
    ("linear", "cuda"): StackedTrainer,
    ("adapter", "cpu"): CompiledTrainer,
    ("adapter", "cuda"): StackedTrainer,
    ("attention", "cuda"): VmappedTrainer,
}
"""Classes that train many clients at a time, by model and kind of device.

For other pairs that would be slower than one client after another.
"""

CLIENT_ALGORITHMS = {
    "fedavg": fedavg_update,
    "fedsgd": fedsgd_gradient,
    "canary": canary_update,
}
"""Functions that compute the update of one client, by algorithm."""


class LocalTraining:
    """Train the clients of a task, any chunk of them at a time, and protect their updates.

    Many clients are trained at a time if ``training.engine=stacked``, the model and the device
    stand in `MULTI_CLIENT_TRAINERS`, no gradient of a single utterance is clipped, and the clients
    are no canaries.

    Attributes
    ----------
    task : LocalTask
        Its `start` is in the order of the network.
    updates : Arrays
        The clients' updates (k, ...), defined after their training.
    sizes : list of int
        Each client's number of utterances.

    Raises
    ------
    UserError
        If there is no such algorithm.
    """

    def __init__(self, task: LocalTask) -> None:
        check_choice("algorithm", task.algorithm, CLIENT_ALGORITHMS)
        self.task = replace(task, start=in_order(task.start))
        self.sizes = task.data.sizes(task.clients).tolist()
        start = self.task.start
        size = sum(array.size for array in start.values())
        flat = borrow((len(task.clients) * size,), np.result_type(*start.values()))
        self.updates = split(flat, len(task.clients), start)
        trainer = _multi_client_trainer(task)
        self._multi_client = trainer(self.task, flat) if trainer else None

    def train(self, chunk: slice) -> list[float]:
        """Train some of the clients, and return the loss of each.

        Threads may train different chunks at the same time.
        """
        if self._multi_client:
            return self._multi_client.train(chunk)
        return [self._train_one(row) for row in range(len(self.task.clients))[chunk]]

    def protect(self, chunk: slice, updates: Arrays) -> None:
        """Apply the mechanism to some clients' rows of k updates (k, ...), in place."""
        for row in range(len(self.task.clients))[chunk]:
            update = {name: array[row] for name, array in updates.items()}
            sent = self.task.mechanism.protect(update, self.sizes[row], self.task.noises[row])
            for name, array in sent.items():
                if array is not update[name]:
                    update[name][...] = array

    def encode(self, mechanism: DistributedDP, chunk: slice) -> None:
        """Replace some clients' updates by integers of 32 bits, in the same memory."""
        for row in range(len(self.task.clients))[chunk]:
            update = {name: array[row] for name, array in self.updates.items()}
            encoded = mechanism.encode(update, self.task.noises[row])
            for name, array in update.items():
                array.view(np.uint32)[...] = encoded.get(name, np.uint32(0))

    def _train_one(self, row: int) -> float:
        update, loss = CLIENT_ALGORITHMS[self.task.algorithm](self.task, row)
        for name, array in update.items():
            self.updates[name][row] = array
        return loss


def _multi_client_trainer(task: LocalTask) -> type[CompiledTrainer | StackedTrainer] | None:
    """Return the class that trains many clients of a task at a time; None: train one by one."""
    per_utterance = task.clip is not None and task.clip.per == "utterance"
    if task.training.engine != "stacked" or task.algorithm == "canary" or per_utterance:
        return None
    return MULTI_CLIENT_TRAINERS.get((task.model.name, task.data.features.device.type))
