"""Recordings as extractors take them: one channel, at one rate."""

from pathlib import Path

import audresample
import numpy as np
import numpy.typing as npt
import soundfile

Floats = npt.NDArray[np.float32]


class AudioError(Exception):
    """A recording that cannot be used; the text says why."""


def read_audio(path: Path, sampling_rate: int) -> Floats:
    """Read a recording, mix its channels down and resample it.

    Parameters
    ----------
    sampling_rate : int
        In Hz.

    Returns
    -------
    ndarray of float32, shape (samples,)

    Raises
    ------
    AudioError
        If it is unreadable or empty, or has samples that are not finite.
    """
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:
        raise AudioError(f"unreadable or empty audio ({error})") from error
    if len(samples) == 0:
        raise AudioError("unreadable or empty audio (no samples)")
    if not np.isfinite(samples).all():  # openSMILE would make numbers of it
        raise AudioError("samples are not finite")
    resampled = audresample.resample(samples.mean(axis=1), rate, sampling_rate)
    return np.asarray(resampled[0], dtype=np.float32)


def seconds(path: Path) -> float:
    """Return how long a recording is, 0 for one that cannot be read."""
    try:
        return float(soundfile.info(path).duration)
    except (OSError, RuntimeError):
        return 0.0
