"""Independent random streams, each named by what it is for.

A stream depends on the run's seed and its own name alone, never on the order in which
streams are drawn, so that a client gets the same numbers on any worker. What a privacy
guarantee rests on must be secret too: `SystemEntropy` depends on nothing.
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
    """Random bits for noise and secret choices; `common.seeds` has the two sources."""

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Return independent uniform words of 64 bits, shape (count,)."""


class SystemEntropy:
    """Draws from the operating system's entropy: neither reproducible nor predictable.

    A fresh key of 256 bits from the operating system is expanded by AES in counter mode, which is
    ten times as fast as asking the system for all bits.
    """

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Return independent uniform words of 64 bits, shape (count,)."""
        stream = Cipher(AES(os.urandom(32)), CTR(bytes(16))).encryptor()
        block = np.empty(8 * count + 15, np.uint8)  # the cipher asks for a block more
        stream.update_into(_zeros(8 * count), block.data)
        return block[: 8 * count].view(np.uint64)


@lru_cache(maxsize=16)  # the sizes of a model's parameters
def _zeros(size: int) -> bytes:
    return bytes(size)


class Reproducible:
    """Draws that follow from a seed and a name: for tests and research, never for protection."""

    def __init__(self, seed: int, *name: str | int) -> None:
        self._bits = np.random.PCG64(_sequence(seed, name))

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Return independent uniform words of 64 bits, shape (count,)."""
        return np.asarray(self._bits.random_raw(count))


def noise_source(seed: int | None, *name: str | int) -> NoiseSource:
    """Return the reproducible source called `name` of a seed; without a seed, the system's."""
    return SystemEntropy() if seed is None else Reproducible(seed, *name)


def uniforms(noise: NoiseSource, size: int) -> npt.NDArray[np.float64]:
    """Return uniforms in [0, 1) of shape (size,), multiples of 2^-53."""
    return (noise.words(size) >> np.uint64(11)) * np.float64(2.0**-53)


def numpy_stream(seed: int, *name: str | int) -> np.random.Generator:
    """Return the NumPy generator called `name` of the run with this seed."""
    return np.random.default_rng(_sequence(seed, name))


def _sequence(seed: int, name: tuple[str | int, ...]) -> np.random.SeedSequence:
    words = [crc32(part.encode()) if isinstance(part, str) else part for part in name]
    return np.random.SeedSequence([seed, *words])
