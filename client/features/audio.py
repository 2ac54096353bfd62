"""Recordings as extractors take them: one channel, at one rate."""

import stat
from pathlib import Path

import audresample
import numpy as np
import soundfile

from fedser.common.arrays import Floats

MOST_SECONDS = 1800.0
"""Of a recording: an utterance is shorter."""

RATES = (1_000, 768_000)
"""Least and largest sampling rate in Hz that a file may claim."""

MOST_CHANNELS = 64

BLOCK = 2**18
"""Samples of all channels that are decoded at a time."""

PEAK = 2.0
"""Largest absolute value of a sample: codecs overshoot 1 a little, unscaled integers by far."""

CANCELLED = 1e-3
"""Share of the channels' energy that must be left when they are mixed."""


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
        As `read_mono` does.
    """
    samples, rate = read_mono(path)
    resampled = audresample.resample(samples, rate, sampling_rate)
    return np.asarray(resampled[0], dtype=np.float32)


def read_mono(path: Path) -> tuple[Floats, int]:
    """Read the mean of a recording's channels, shape (samples,), and its sampling rate in Hz.

    What the header claims is checked before anything is decoded, and no more is decoded than it
    claims.

    Raises
    ------
    AudioError
        If it is not a regular file, unreadable, empty or out of the bounds of this module, if it
        has samples that are not finite or far beyond 1, or if its channels cancel out.
    """
    try:
        refuse_devices(path)
        with soundfile.SoundFile(path) as file:
            _check_header(file)
            mono, energy = _mixed(file)
            rate = file.samplerate
    except (OSError, RuntimeError) as error:
        raise AudioError(f"unreadable or empty audio ({error})") from error
    if len(mono) == 0:
        raise AudioError("unreadable or empty audio (no samples)")
    if float(np.square(mono, dtype=np.float64).sum()) < CANCELLED * energy:
        raise AudioError("channels cancel out when they are mixed; keep one of them")
    return mono, rate


def refuse_devices(path: Path) -> None:
    """Refuse a device or a pipe, which may have no end.

    Raises
    ------
    AudioError
        Also if no file can have this name.
    OSError
        If there is no such file.
    """
    try:
        mode = path.stat().st_mode
    except ValueError as error:
        raise AudioError(str(error)) from error
    if not stat.S_ISREG(mode):
        raise AudioError("not a regular file")


def _check_header(file: soundfile.SoundFile) -> None:
    lowest, highest = RATES
    if not lowest <= file.samplerate <= highest:
        raise AudioError(f"its header claims {file.samplerate} Hz, not {lowest} to {highest}")
    if file.channels > MOST_CHANNELS:
        raise AudioError(f"its header claims {file.channels} channels, above {MOST_CHANNELS}")
    if file.frames > MOST_SECONDS * file.samplerate:
        raise AudioError(
            f"its header claims {file.frames / file.samplerate:.0f} s, above {MOST_SECONDS:.0f}"
        )


def _mixed(file: soundfile.SoundFile) -> tuple[Floats, float]:
    """Return the mean of the channels, and the mean of their energies."""
    blocks, energy, left = list[Floats](), 0.0, file.frames
    while left > 0:
        block = file.read(min(left, BLOCK // file.channels), "float32", always_2d=True)
        if len(block) == 0:
            break
        left -= len(block)
        if not np.isfinite(block).all():  # openSMILE would make numbers of it
            raise AudioError("samples are not finite")
        if (peak := float(np.abs(block).max())) > PEAK:
            raise AudioError(f"samples reach {peak:.3g}; scale them to within 1")
        energy += float(np.square(block, dtype=np.float64).mean(axis=1).sum())
        blocks.append(block.mean(axis=1))
    return np.concatenate(blocks) if blocks else np.empty(0, np.float32), energy


def seconds(path: Path) -> float:
    """Return how long a recording is, 0 for one that cannot be read."""
    try:
        refuse_devices(path)
        return float(soundfile.info(path).duration)
    except (AudioError, OSError, RuntimeError):
        return 0.0
