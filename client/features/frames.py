"""Utterances as sequences of frames: arrays (n, T, d) of one length, padded with NaN at the end.

Features are finite, so padding cannot be taken for speech: where it is forgotten, NaN comes out.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedser.common.arrays import Floats


def pad(sequences: Sequence[Floats], length: int) -> Floats:
    """Return n > 0 sequences (t, d), of up to `length` frames each, as (n, length, d)."""
    padded = np.full((len(sequences), length, sequences[0].shape[1]), np.nan, np.float32)
    for number, frames in enumerate(sequences):
        padded[number, : len(frames)] = frames
    return padded


def unpad(features: Floats) -> Floats:
    """Return the frames (m, d) of all sequences, in turn; vectors (n, d) stay as they are."""
    flat = features.reshape(-1, features.shape[-1])
    return flat if features.ndim == 2 else flat[~np.isnan(flat[:, 0])]


def frame_counts(features: Floats) -> npt.NDArray[np.int64]:
    """Return how many frames each of n sequences has, (n,); a vector counts as one."""
    if features.ndim == 2:
        return np.ones(len(features), np.int64)
    return np.asarray((~np.isnan(features[:, :, 0])).sum(axis=1))
