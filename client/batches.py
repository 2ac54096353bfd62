"""Which utterances clients use in each step of a round."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from client.dataset import Dataset
from client.draws import Draws


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
        device, sizes, count = data.features.device, data.sizes(clients), len(clients)
        an_epoch = -(-sizes // size) * size  # utterances and padding
        places = torch.arange(epochs * int(an_epoch.max()))
        epoch, place = places // an_epoch[:, None], places % an_epoch[:, None]
        valid = (epoch < epochs) & (place < sizes[:, None])
        orders = torch.stack([draws.orders(e, sizes.to(device)) for e in range(epochs)])
        at = (epoch.clamp_(max=epochs - 1), torch.arange(count)[:, None], place * valid)
        first = data.bounds[torch.tensor(clients)][:, None]
        rows = torch.where(valid.to(device), orders[tuple(i.to(device) for i in at)], 0)
        rows += first.to(device)
        return cls(rows.view(count, -1, size), valid.view(count, -1, size).sum(2))
