from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fedser.client.corpora.synthetic.espeak import Prosody
from fedser.client.corpora.synthetic.recording import SAMPLE_RATE, record
from fedser.client.corpora.synthetic.voices import BANDS, Delivery, Voice

VOICE = Voice(
    gender="female",
    variant="f1",
    rate=180.0,
    pitch=50.0,
    pitch_range=50.0,
    tract=1.0,
    colouring=np.zeros(BANDS),
    level=-26.0,
    snr=20.0,
    expressiveness=np.ones((4, 5)),
)
DELIVERY = Delivery(Prosody(180, 100, 50, 50), tilt=0.0, level=-26.0, snr=200.0)


def tone(hertz: float, seconds: float = 1.0, sample_rate: int = 22_050) -> NDArray[np.float64]:
    """Sine of root mean square 0.1, the level of eSpeak NG."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return np.asarray(0.1 * np.sqrt(2) * np.sin(2 * np.pi * hertz * time))


def recorded(
    samples: NDArray[np.float64], voice: Voice = VOICE, delivery: Delivery = DELIVERY
) -> NDArray[np.float64]:
    return record(samples, 22_050, voice, delivery, np.random.default_rng(0))


def decibel(samples: NDArray[np.float64]) -> float:
    return float(20 * np.log10(samples.std()))


@pytest.mark.parametrize("tract", [0.7, 1.0, 1.25])
def test_tract_scales_frequency_and_tempo(tract: float) -> None:
    samples = recorded(tone(1000.0), replace(VOICE, tract=tract))
    assert len(samples) == round(SAMPLE_RATE / tract)
    peak = np.abs(np.fft.rfft(samples)).argmax() * SAMPLE_RATE / len(samples)
    assert peak == pytest.approx(1000.0 * tract, rel=1e-3)


def test_level_is_the_root_mean_square() -> None:
    assert decibel(recorded(tone(1000.0))) == pytest.approx(-26.0, abs=0.01)


def test_tilt_is_in_decibels_per_octave() -> None:
    tilted = replace(DELIVERY, tilt=2.0)
    gains = [decibel(recorded(tone(f), delivery=tilted)) + 26.0 for f in (500.0, 1000.0, 4000.0)]
    assert gains == pytest.approx([-2.0, 0.0, 4.0], abs=0.01)


def test_colouring_is_the_gain_at_its_bands() -> None:
    colouring = np.linspace(-3.0, 4.0, BANDS)
    samples = recorded(tone(SAMPLE_RATE / 2 * 2 / 7, 0.7), replace(VOICE, colouring=colouring))
    assert decibel(samples) + 26.0 == pytest.approx(-1.0, abs=0.05)


def test_noise_has_the_signal_to_noise_ratio() -> None:
    clean = recorded(tone(1000.0))
    noise = recorded(tone(1000.0), delivery=replace(DELIVERY, snr=15.0)) - clean
    assert decibel(clean) - decibel(noise) == pytest.approx(15.0, abs=0.2)


def test_loud_recordings_clip_at_full_scale() -> None:
    assert np.abs(recorded(tone(1000.0), delivery=replace(DELIVERY, level=6.0))).max() == 1.0
