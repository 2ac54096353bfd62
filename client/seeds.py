"""Independent random streams, each named by what it is for.

A stream depends on the run's seed and its own name alone, never on the order in which
streams are drawn, so that a client gets the same numbers on any worker. What a privacy
guarantee rests on must be secret too: `SystemEntropy` depends on nothing.
"""

import math
import os
from zlib import crc32

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from client.mechanism import NoiseSource


class SystemEntropy:
    """Draws from the operating system's entropy: neither reproducible nor predictable."""

    def random(self, size: int) -> npt.NDArray[np.float64]:
        """Return uniforms in [0, 1) of shape (size,), multiples of 2^-53."""
        return _random_bits(53, size) * np.float64(2.0**-53)

    def standard_normal(
        self, size: tuple[int, ...], dtype: type[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Return standard normals of this shape, by inversion in float64."""
        # Midpoints of 2^52 cells: exact in float64, and never 0 or 1. With one bit more
        # the last would round to 1, which no normal belongs to.
        uniforms = (_random_bits(52, math.prod(size)) + 0.5) * 2.0**-52
        return ndtri(uniforms).reshape(size).astype(dtype)  # type: ignore[no-any-return]


def noise_source(secure: bool, seed: int, *name: str | int) -> NoiseSource:
    """Return the system's entropy, or the reproducible stream called `name` of this seed.

    Parameters
    ----------
    secure : bool
        Whether someone relies on the noise: who knows the seed can subtract the stream's.
    """
    return SystemEntropy() if secure else numpy_stream(seed, *name)


def numpy_stream(seed: int, *name: str | int) -> np.random.Generator:
    """Return the NumPy generator called `name` of the run with this seed."""
    return np.random.default_rng(_sequence(seed, name))


def _sequence(seed: int, name: tuple[str | int, ...]) -> np.random.SeedSequence:
    words = [crc32(part.encode()) if isinstance(part, str) else part for part in name]
    return np.random.SeedSequence([seed, *words])


def _random_bits(bits: int, size: int) -> npt.NDArray[np.uint64]:
    """Return integers of so many random bits, of shape (size,)."""
    return np.frombuffer(os.urandom(8 * size), np.uint64) >> np.uint64(64 - bits)
