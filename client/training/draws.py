"""Random orders and dropout masks of local training, from a counter-based generator.

Each number is a hash of the client's key and of a counter. A client therefore gets the same
numbers alone or together with others, on any worker and on any device. The hash is SplitMix
(Steele, Lea and Flood, 2014) in 32 bits, with the finaliser of MurmurHash3. That is enough for
shuffling and dropout; random numbers that a guarantee rests on come from a `NoiseSource`.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fedser.common.jit import compiled
from fedser.common.seeds import numpy_stream

GOLDEN = 0x9E3779B9 - 2**32
"""SplitMix's increment, as a signed integer."""

ORDER, MASK = 0, 1
"""Kinds of numbers: each kind has its own counters."""

Ints32 = npt.NDArray[np.int32]


def client_keys(seed: int, clients: Sequence[int], *name: str | int) -> torch.Tensor:
    """Return a key for each of k clients, int32 of shape (k,).

    Parameters
    ----------
    name : str or int
        Names the random stream, together with `seed` and the client.
    """
    first, second = numpy_stream(seed, *name).integers(-(2**31), 2**31, 2).tolist()
    numbers = torch.tensor(clients, dtype=torch.int32)
    return _mix(_mix(numbers * GOLDEN + first) + second)


@dataclass(frozen=True)
class Draws:
    """Random numbers of k clients.

    Attributes
    ----------
    keys : Tensor of int32, shape (k,)
        On the device that trains.
    dropout : float
        Share of hidden units that are dropped.
    """

    keys: torch.Tensor
    dropout: float

    def __getitem__(self, rows: slice | torch.Tensor) -> "Draws":
        """Return the random numbers of some of the clients."""
        return Draws(self.keys[rows], self.dropout)

    def orders(self, epoch: int, sizes: torch.Tensor) -> torch.Tensor:
        """Return each client's utterances in random order, then padding: shape (k, largest size).

        Parameters
        ----------
        sizes : Tensor of int64, shape (k,)
            Number of utterances of each client.
        """
        places = torch.arange(int(sizes.max()), device=sizes.device)
        drawn = self._numbers(len(places), ORDER, epoch).long()
        drawn = drawn.masked_fill(places >= sizes[:, None], 2**31)
        return drawn.argsort(dim=1, stable=True)

    def masks(self, step: int, rows: int, widths: Sequence[int]) -> list[torch.Tensor]:
        """Return the dropout factors of each hidden layer in a step, shapes (k, rows, width)."""
        kept = self.kept(step, rows, sum(widths)).to(torch.get_default_dtype())
        kept /= 1 - self.dropout
        return list(torch.split(kept, list(widths), dim=2))

    def kept(self, step: int, rows: int, units: int) -> torch.Tensor:
        """Return which hidden units stay in a step, bool (k, rows, units), layer after layer.

        The result for a row and unit does not depend on the number of rows.
        """
        drawn = self._numbers(rows * units, MASK, step)
        drawn &= 0xFFFFFF
        return (drawn >= round(self.dropout * 2**24)).view(len(self.keys), rows, units)

    def _numbers(self, count: int, kind: int, number: int) -> torch.Tensor:
        """Return random int32 numbers (k, count) of one kind, for one epoch or step."""
        start = zlib.crc32(f"{kind}/{number}".encode()) - 2**31
        if self.keys.is_cpu:
            return torch.from_numpy(hashes(self.keys.numpy(), start, count))
        return hashes_on_device(self.keys, start, count)


@compiled
def hashes(keys: Ints32, start: int, count: int) -> Ints32:
    """Return the hash of each of k keys plus `start` plus i times GOLDEN, shape (k, count)."""
    numbers = np.empty((len(keys), count), np.int32)
    for row in range(len(keys)):
        first = np.uint32(keys[row] + start)
        for i in range(count):
            x = np.uint32(first + np.uint32(i) * np.uint32(GOLDEN & 0xFFFFFFFF))
            x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B))
            x = np.uint32((x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35))
            numbers[row, i] = np.int32(x ^ (x >> np.uint32(16)))
    return numbers


def hashes_on_device(keys: torch.Tensor, start: int, count: int) -> torch.Tensor:
    """Compute `hashes` on the device of the keys."""
    steps = torch.arange(count, dtype=torch.int32, device=keys.device)
    return _mix(keys[:, None] + steps.mul_(GOLDEN).add_(start))


def _mix(x: torch.Tensor) -> torch.Tensor:
    """Return MurmurHash3's finaliser of each number: each bit depends on all bits."""
    for shift, factor in ((16, 0x85EBCA6B - 2**32), (13, 0xC2B2AE35 - 2**32), (16, 1)):
        high = x >> shift
        high &= (1 << (32 - shift)) - 1  # the shift of a signed integer copies the sign
        x = high.bitwise_xor_(x)
        if factor != 1:
            x *= factor
    return x
