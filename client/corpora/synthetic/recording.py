"""Convert synthetic samples to a recording: vocal tract, microphone and noise."""

import numpy as np
from numpy.typing import NDArray

from fedser.client.corpora.synthetic.voices import BANDS, Delivery, Voice

SAMPLE_RATE = 16_000
"""Sampling rate of every recording, in hertz."""

_SPEECH_RMS = 0.1  # of eSpeak NG at volume 100; a fixed reference keeps differences in volume


def record(
    samples: NDArray[np.float64],
    sample_rate: int,
    voice: Voice,
    delivery: Delivery,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Resample and filter the samples, set their level and add noise.

    Parameters
    ----------
    samples : ndarray of shape (samples,)
        Samples from -1 to 1, at `sample_rate`.

    Returns
    -------
    ndarray
        Samples from -1 to 1, at `SAMPLE_RATE`. All frequencies and the tempo are multiplied by
        `voice.tract`.
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
    """Return the gain in dB at `frequencies` in hertz: colouring plus tilt.

    The tilt is 0 dB at 1 kHz and constant below 100 Hz.
    """
    bands = np.linspace(0.0, SAMPLE_RATE / 2, BANDS)
    tilt = delivery.tilt * np.log2(np.maximum(frequencies, 100.0) / 1000.0)
    return np.asarray(np.interp(frequencies, bands, voice.colouring) + tilt)
