"""The utterances that clients use in each step of a round."""

from dataclasses import dataclass

import numpy as np
import torch

from fedser.client.training.task import LocalTask


@dataclass(frozen=True)
class Batches:
    """Batches of k clients in each of S steps, of at most b utterances each.

    Attributes
    ----------
    rows : Tensor of int64, shape (k, S, b)
        Utterances of the dataset. Where a batch is smaller than b, the rest is arbitrary.
    counts : Tensor of int64, shape (k, S)
        Sizes of the batches, on the CPU; 0 after a client's last step.
    """

    rows: torch.Tensor
    counts: torch.Tensor

    @classmethod
    def draw(cls, task: LocalTask) -> "Batches":
        """Draw an order of each client's utterances for each epoch, and cut it into batches."""
        data, size, count = task.data, task.training.batch_size, len(task.clients)
        epochs = task.training.epochs if task.algorithm == "fedavg" else 1
        device, sizes = data.features.device, data.sizes(task.clients)
        drawn = torch.stack([task.draws.orders(e, sizes.to(device)) for e in range(epochs)])
        orders, held = drawn.cpu().numpy(), sizes.numpy()[:, None]
        per_epoch = -(-held // size) * size  # utterances and padding
        epoch, place = np.divmod(np.arange(epochs * per_epoch.max()), per_epoch)
        valid = (epoch < epochs) & (place < held)
        at = (np.minimum(epoch, epochs - 1), np.arange(count)[:, None], place * valid)
        rows = np.where(valid, orders[at], 0) + data.bounds.numpy()[list(task.clients)][:, None]
        return cls(
            torch.from_numpy(rows.reshape(count, -1, size)).to(device),
            torch.from_numpy(valid.reshape(count, -1, size).sum(2)),
        )
