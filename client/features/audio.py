"""Read recordings with one channel at a given sampling rate."""

import stat
from pathlib import Path

import audresample
import numpy as np
import soundfile

from fedser.common.arrays import Floats

MAX_SECONDS = 1800.0
"""Largest length of a recording in seconds; utterances are much shorter."""

RATE_RANGE = (1_000, 768_000)
"""Smallest and largest sampling rate in the header of a file, in Hz."""

MAX_CHANNELS = 64

BLOCK_SAMPLES = 2**18
"""Number of samples of all channels to decode at once."""

MAX_PEAK = 2.0
"""Largest absolute sample value: codecs slightly exceed 1, unscaled integers far exceed it."""

MIN_ENERGY_SHARE = 1e-3
"""Smallest share of the energy of the channels that must remain after mixing."""


class AudioError(Exception):
    """A recording cannot be used; the text gives the reason."""


def read_audio(path: Path, sampling_rate: int) -> Floats:
    """Read a recording, average its channels and resample the result.

    Parameters
    ----------
    sampling_rate : int
        Rate of the result, in Hz.

    Returns
    -------
    ndarray of float32, shape (samples,)

    Raises
    ------
    AudioError
        As in `read_mono`.
    """
    samples, rate = read_mono(path)
    resampled = audresample.resample(samples, rate, sampling_rate)
    return np.asarray(resampled[0], dtype=np.float32)


def read_mono(path: Path) -> tuple[Floats, int]:
    """Return the mean of a recording's channels, shape (samples,), and its sampling rate in Hz.

    The header is checked before decoding, and decoding stops at the length in the header.

    Raises
    ------
    AudioError
        If the file is not regular, unreadable, empty or beyond the limits of this module, if
        samples are not finite or far beyond 1, or if the channels cancel out.
    """
    try:
        check_regular_file(path)
        with soundfile.SoundFile(path) as file:
            _check_header(file)
            mono, energy = _mix_channels(file)
            rate = file.samplerate
    except (OSError, RuntimeError) as error:
        raise AudioError(f"unreadable or empty audio ({error})") from error
    if len(mono) == 0:
        raise AudioError("unreadable or empty audio (no samples)")
    if float(np.square(mono, dtype=np.float64).sum()) < MIN_ENERGY_SHARE * energy:
        raise AudioError("the channels cancel out in their mean: keep only one channel")
    return mono, rate


def check_regular_file(path: Path) -> None:
    """Reject devices and pipes, because reading them may never end.

    Raises
    ------
    AudioError
        If the file is not regular, or if the name is invalid.
    OSError
        If the file does not exist.
    """
    try:
        mode = path.stat().st_mode
    except ValueError as error:
        raise AudioError(str(error)) from error
    if not stat.S_ISREG(mode):
        raise AudioError("not a regular file")


def _check_header(file: soundfile.SoundFile) -> None:
    lowest, highest = RATE_RANGE
    if not lowest <= file.samplerate <= highest:
        raise AudioError(
            f"the header says {file.samplerate} Hz; the limits are {lowest} to {highest} Hz"
        )
    if file.channels > MAX_CHANNELS:
        raise AudioError(f"the header says {file.channels} channels; the limit is {MAX_CHANNELS}")
    if file.frames > MAX_SECONDS * file.samplerate:
        length = file.frames / file.samplerate
        raise AudioError(f"the header says {length:.0f} s; the limit is {MAX_SECONDS:.0f} s")


def _mix_channels(file: soundfile.SoundFile) -> tuple[Floats, float]:
    """Return the mean of the channels, shape (samples,), and the mean of their energies."""
    blocks, energy, left = list[Floats](), 0.0, file.frames
    while left > 0:
        block = file.read(min(left, BLOCK_SAMPLES // file.channels), "float32", always_2d=True)
        if len(block) == 0:
            break
        left -= len(block)
        if not np.isfinite(block).all():  # openSMILE would return finite features
            raise AudioError("samples are not finite")
        if (peak := float(np.abs(block).max())) > MAX_PEAK:
            raise AudioError(f"samples reach {peak:.3g}: scale them to -1 to 1")
        energy += float(np.square(block, dtype=np.float64).mean(axis=1).sum())
        blocks.append(block.mean(axis=1))
    return np.concatenate(blocks) if blocks else np.empty(0, np.float32), energy


def seconds(path: Path) -> float:
    """Return the length of a recording in seconds, or 0 if it cannot be read."""
    try:
        check_regular_file(path)
        return float(soundfile.info(path).duration)
    except (AudioError, OSError, RuntimeError):
        return 0.0
