"""Which utterances clients use in each step of a round."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedser.client.training.dataset import Dataset
from fedser.client.training.draws import Draws


@dataclass(frozen=True)
class Batches:
    """Batches of k clients in each of S steps, of up to b utterances each.

    Attributes
    ----------
    rows : Tensor of int64, shape (k, S, b)
        Utterances of the dataset; any of them where a batch is smaller.
    counts : Tensor of int64, shape (k, S)
        Sizes of the batches, on the CPU; 0 after a client's last step.
    """

    rows: torch.Tensor
    counts: torch.Tensor

    @classmethod
    def draw(
        cls, data: Dataset, clients: Sequence[int], size: int, epochs: int, draws: Draws
    ) -> "Batches":
        """Draw an order of each client's utterances for each epoch, and cut it into batches."""
        sizes, count = data.sizes(clients), len(clients)
        device = data.features.device
        drawn = torch.stack([draws.orders(e, sizes.to(device)) for e in range(epochs)])
        orders, held = drawn.cpu().numpy(), sizes.numpy()[:, None]
        an_epoch = -(-held // size) * size  # utterances and padding
        epoch, place = np.divmod(np.arange(epochs * an_epoch.max()), an_epoch)
        valid = (epoch < epochs) & (place < held)
        at = (np.minimum(epoch, epochs - 1), np.arange(count)[:, None], place * valid)
        rows = np.where(valid, orders[at], 0) + data.bounds.numpy()[list(clients)][:, None]
        return cls(
            torch.from_numpy(rows.reshape(count, -1, size)).to(device),
            torch.from_numpy(valid.reshape(count, -1, size).sum(2)),
        )
