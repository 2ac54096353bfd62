"""Independent random streams, each with a name for its purpose.

A stream depends only on the run's seed and its own name, never on the order of draws, so that a
client gets the same numbers on any worker. The noise of a privacy guarantee must be secret as well:
`SystemEntropy` depends on no seed.
"""

import os
from functools import lru_cache
from typing import Protocol
from zlib import crc32

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR


class NoiseSource(Protocol):
    """A source of random bits: `SystemEntropy` or `Reproducible`."""

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Return independent uniform words of 64 bits, shape (count,)."""


class SystemEntropy:
    """Random bits from the operating system's entropy: neither reproducible nor predictable.

    AES in counter mode expands a fresh key of 256 bits for each draw. This is ten times as fast as
    asking the system for all bits.
    """

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Return independent uniform words of 64 bits, shape (count,)."""
        stream = Cipher(AES(os.urandom(32)), CTR(bytes(16))).encryptor()
        block = np.empty(8 * count + 15, np.uint8)  # the cipher needs one more block
        stream.update_into(_zeros(8 * count), block.data)
        return block[: 8 * count].view(np.uint64)


@lru_cache(maxsize=16)  # the sizes of a model's parameters
def _zeros(size: int) -> bytes:
    return bytes(size)


class Reproducible:
    """Random bits that follow from a seed and a name: for research, never for protection."""

    def __init__(self, seed: int, *name: str | int) -> None:
        self._bits = np.random.PCG64(_sequence(seed, name))

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Return independent uniform words of 64 bits, shape (count,)."""
        return np.asarray(self._bits.random_raw(count))


def noise_source(seed: int | None, *name: str | int) -> NoiseSource:
    """Return the reproducible source of a seed and name, or system entropy if seed is None."""
    return SystemEntropy() if seed is None else Reproducible(seed, *name)


def uniforms(noise: NoiseSource, size: int) -> npt.NDArray[np.float64]:
    """Return uniforms in [0, 1) of shape (size,), multiples of 2^-53."""
    return (noise.words(size) >> np.uint64(11)) * np.float64(2.0**-53)


def numpy_stream(seed: int, *name: str | int) -> np.random.Generator:
    """Return the NumPy generator of a seed and name."""
    return np.random.default_rng(_sequence(seed, name))


def _sequence(seed: int, name: tuple[str | int, ...]) -> np.random.SeedSequence:
    words = [crc32(part.encode()) if isinstance(part, str) else part for part in name]
    return np.random.SeedSequence([seed, *words])
