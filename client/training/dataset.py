"""Training data of clients, as tensors on the device that trains."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file


@dataclass(frozen=True)
class Examples:
    """Features of shape (n, d) or (n, T, d) in float32 and labels of shape (n,) in int64."""

    features: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        """Return n."""
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Utterances of M clients, in the order of the clients.

    Attributes
    ----------
    features : Tensor of float32, shape (n, d), or (n, T, d)
        Vectors, or padded sequences of frames: see `client.features.frames`.
    labels : Tensor of int64, shape (n,)
    bounds : Tensor of int64, shape (M + 1,)
        Client m has the utterances from `bounds[m]` to `bounds[m + 1]`; on the CPU.
    """

    features: torch.Tensor
    labels: torch.Tensor
    bounds: torch.Tensor

    @classmethod
    def of(cls, clients: Sequence[Examples]) -> "Dataset":
        """Join the utterances of clients."""
        sizes = torch.tensor([0, *map(len, clients)])
        features = torch.cat([examples.features for examples in clients])
        return cls(features, torch.cat([e.labels for e in clients]), sizes.cumsum(0))

    @classmethod
    def load(cls, path: Path, device: str) -> "Dataset":
        """Read a file that `Clients.save_training` wrote."""
        stored = load_file(path)
        features, labels = stored["features"].to(device), stored["labels"].to(device)
        return cls(features, labels, stored["bounds"])

    def __len__(self) -> int:
        """Return M."""
        return len(self.bounds) - 1

    def __getitem__(self, client: int) -> Examples:
        """Return one client's utterances, without a copy."""
        own = slice(*self.bounds[client : client + 2].tolist())
        return Examples(self.features[own], self.labels[own])

    def __iter__(self) -> Iterator[Examples]:
        """Yield the utterances of each client."""
        return (self[client] for client in range(len(self)))

    def sizes(self, clients: Sequence[int]) -> torch.Tensor:
        """Return the number of utterances of each of k clients, shape (k,)."""
        first = torch.tensor(clients)
        return self.bounds[first + 1] - self.bounds[first]


def trim(features: torch.Tensor) -> torch.Tensor:
    """Remove frames that are padding in all n sequences; leave vectors (n, d) as they are."""
    if features.ndim == 2:
        return features
    used = ~features[:, :, 0].isnan().all(dim=0)
    return features[:, : max(1, int(used.sum()))]
