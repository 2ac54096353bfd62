"""Utterances as sequences of frames: arrays (n, T, d), padded with NaN at the end.

Features are finite, so NaN marks padding; code that ignores the padding yields NaN.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedser.common.arrays import Floats


def pad(sequences: Sequence[Floats], length: int) -> Floats:
    """Return n > 0 sequences (t, d) with t <= `length` as one padded array (n, length, d)."""
    padded = np.full((len(sequences), length, sequences[0].shape[1]), np.nan, np.float32)
    for number, frames in enumerate(sequences):
        padded[number, : len(frames)] = frames
    return padded


def unpad(features: Floats) -> Floats:
    """Return all frames (m, d) of the sequences in order; return vectors (n, d) unchanged."""
    flat = features.reshape(-1, features.shape[-1])
    return flat if features.ndim == 2 else flat[~np.isnan(flat[:, 0])]


def frame_counts(features: Floats) -> npt.NDArray[np.int64]:
    """Return the number of frames of each sequence, shape (n,); a vector counts as one frame."""
    if features.ndim == 2:
        return np.ones(len(features), np.int64)
    return np.asarray((~np.isnan(features[:, :, 0])).sum(axis=1))
