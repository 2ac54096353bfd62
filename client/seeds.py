"""Independent random streams, each named by what it is for.

A stream depends on the run's seed and its own name alone, never on the order in which
streams are drawn, so that a client gets the same numbers on any worker.
"""

from zlib import crc32

import numpy as np
import torch


def numpy_stream(seed: int, *name: str | int) -> np.random.Generator:
    """Return the NumPy generator called `name` of the run with this seed."""
    return np.random.default_rng(_sequence(seed, name))


def torch_stream(seed: int, *name: str | int) -> torch.Generator:
    """Return the PyTorch generator (on the CPU) called `name` of the run with this seed."""
    state = int(_sequence(seed, name).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state)


def _sequence(seed: int, name: tuple[str | int, ...]) -> np.random.SeedSequence:
    words = [crc32(part.encode()) if isinstance(part, str) else part for part in name]
    return np.random.SeedSequence([seed, *words])
