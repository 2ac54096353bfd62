"""Random orders and dropout masks of local training, counted out instead of drawn in turn.

Each number is a hash of a client's key and of its own place, so that a client gets the same
ones alone or stacked with others, on any worker and on any device. The hash is SplitMix
(Steele, Lea and Flood, 2014) in 32 bits, with the finaliser of MurmurHash3. That is enough for
shuffling and dropout; what a guarantee rests on is drawn from a `NoiseSource`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from client.seeds import numpy_stream

GOLDEN = 0x9E3779B9 - 2**32
"""SplitMix's increment, as a signed integer."""

ORDER, MASK = 0, 1


def client_keys(seed: int, clients: Sequence[int], *name: str | int) -> torch.Tensor:
    """Return a key for each of k clients, int32 of shape (k,).

    Parameters
    ----------
    name : str or int
        Names the streams, together with `seed` and the client.
    """
    first, second = numpy_stream(seed, *name).integers(-(2**31), 2**31, 2).tolist()
    numbers = torch.tensor(clients, dtype=torch.int32)
    return _mix(_mix(numbers * GOLDEN + first) + second)


@dataclass(frozen=True)
class Draws:
    """Numbers of k clients.

    Attributes
    ----------
    keys : Tensor of int32, shape (k,)
        On the device that trains.
    dropout : float
        Share of hidden units dropped.
    """

    keys: torch.Tensor
    dropout: float

    def head(self, count: int) -> "Draws":
        """Return the draws of the first so many clients."""
        return Draws(self.keys[:count], self.dropout)

    def orders(self, epoch: int, sizes: torch.Tensor) -> torch.Tensor:
        """Return each client's utterances in random order, then padding: (k, largest size).

        Parameters
        ----------
        sizes : Tensor of int64, shape (k,)
            How many utterances each client has.
        """
        places = torch.arange(int(sizes.max()), device=sizes.device)
        drawn = self._numbers(len(places), ORDER, epoch).long()
        drawn = drawn.masked_fill(places >= sizes[:, None], 2**31)
        return drawn.argsort(dim=1, stable=True)

    def masks(self, layer: int, step: int, like: torch.Tensor) -> torch.Tensor:
        """Return what to multiply a hidden layer's outputs (k, b, h) by in a step.

        A number depends on its row and unit, not on how many rows there are.
        """
        drawn = self._numbers(like[0].numel(), MASK + layer, step) & 0xFFFFFF
        kept = drawn.ge_(round(self.dropout * 2**24)).view(like.shape)
        return kept.to(like.dtype).div_(1 - self.dropout)

    def _numbers(self, count: int, *place: int) -> torch.Tensor:
        """Return int32 numbers (k, count)."""
        keys = self.keys
        for part in place:
            keys = _mix(keys + (part + 1) * GOLDEN)
        steps = torch.arange(count, dtype=torch.int32, device=keys.device) * GOLDEN
        return _mix(keys[:, None] + steps)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """Return MurmurHash3's finaliser of each number: every bit depends on every other."""
    x = x ^ (x >> 16 & 0xFFFF)  # a shift of signed integers copies the sign
    x *= 0x85EBCA6B - 2**32
    x ^= x >> 13 & 0x7FFFF
    x *= 0xC2B2AE35 - 2**32
    x ^= x >> 16 & 0xFFFF
    return x
