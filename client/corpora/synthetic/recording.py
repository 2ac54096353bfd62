"""From synthetic samples to a recording: another vocal tract, a microphone, a noisy room."""

import numpy as np
from numpy.typing import NDArray

from fedser.client.corpora.synthetic.voices import BANDS, Delivery, Voice

SAMPLE_RATE = 16_000
"""Of every recording, in hertz."""

_SPEECH_RMS = 0.1  # of eSpeak NG at volume 100, so that volume still tells in the recording


def record(
    samples: NDArray[np.float64],
    sample_rate: int,
    voice: Voice,
    delivery: Delivery,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Resample, colour, set the level and add noise.

    Parameters
    ----------
    samples : ndarray of shape (samples,)
        Between -1 and 1, at `sample_rate`.

    Returns
    -------
    ndarray
        At `SAMPLE_RATE`, between -1 and 1. Every frequency, and the tempo, is `voice.tract` times
        that of `samples`.
    """
    length = round(len(samples) * SAMPLE_RATE / (sample_rate * voice.tract))
    spectrum = np.fft.rfft(samples)[: length // 2 + 1]
    frequencies = np.arange(len(spectrum)) * (SAMPLE_RATE / length)
    gain = 10 ** (_gain(frequencies, voice, delivery) / 20)
    speech = np.fft.irfft(spectrum * gain, length) * (length / len(samples))
    speech *= 10 ** (delivery.level / 20) / _SPEECH_RMS
    noise = rng.normal(0.0, 10 ** (-delivery.snr / 20) * speech.std(), length)
    return np.clip(speech + noise, -1.0, 1.0)


def _gain(
    frequencies: NDArray[np.floating], voice: Voice, delivery: Delivery
) -> NDArray[np.floating]:
    """Gain in dB at `frequencies` (hertz); the tilt turns about 1 kHz and rests below 100 Hz."""
    bands = np.linspace(0.0, SAMPLE_RATE / 2, BANDS)
    tilt = delivery.tilt * np.log2(np.maximum(frequencies, 100.0) / 1000.0)
    return np.asarray(np.interp(frequencies, bands, voice.colouring) + tilt)
