"""Random synthetic speakers: their voice, the effect of emotions on it, and the recording.

All voice parameters overlap between the genders, and speakers differ in how strongly they express
an emotion. So no single feature determines the emotion or the gender.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedser.client.corpora.base import EMOTIONS
from fedser.client.corpora.synthetic.espeak import Prosody

# Variants without breath: eSpeak NG's breath noise is not reproducible.
VARIANTS = {
    "female": ("f1", "f4", "Annie", "belinda", "linda", "steph"),
    "male": ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8"),
}
"""Names of eSpeak NG voice variants by gender."""

# Mean pitch in eSpeak units. The variants alone separate the genders (about 100 Hz and 200 Hz), so
# male voices are raised and female voices are lowered until their distributions overlap.
_PITCH = {"female": 35.0, "male": 66.0}
_TRACT = {"female": 0.94, "male": 1.06}

# Shift from neutral speech at expressiveness 1: rate (fraction), volume and pitch (eSpeak units),
# pitch range (fraction), spectral tilt (dB per octave, vocal effort). Directions after Scherer,
# "Vocal communication of emotion", Speech Communication 40 (2003).
_SHIFTS = {
    "neutral": (0.0, 0.0, 0.0, 0.0, 0.0),
    "happiness": (0.08, 10.0, 11.0, 0.40, 0.3),
    "sadness": (-0.11, -12.0, -7.0, -0.25, -0.8),
    "anger": (0.08, 20.0, 4.0, 0.10, 1.1),
}
_JITTER = (0.055, 8.0, 3.6, 0.15, 0.45)  # standard deviation within a speaker, in the same units
BANDS = 8
"""Number of points of a speaker's spectral colouring, evenly spaced from 0 to 8 kHz."""


@dataclass(frozen=True)
class Voice:
    """One synthetic speaker.

    Attributes
    ----------
    gender, variant : str
        ``female`` or ``male``, and an eSpeak NG voice variant of that gender.
    rate, pitch, pitch_range : float
        Prosody of neutral speech, in eSpeak units.
    tract : float
        Factor on all frequencies: a shorter vocal tract raises the formants.
    colouring : ndarray of shape (BANDS,)
        Gain of vocal tract and microphone over frequency, in dB.
    level, snr : float
        Recording level in dB re full scale, and mean signal-to-noise ratio in dB.
    expressiveness : ndarray of shape (4, 5)
        Factor on the shift of each emotion in each prosodic dimension.
    """

    gender: str
    variant: str
    rate: float
    pitch: float
    pitch_range: float
    tract: float
    colouring: NDArray[np.float64]
    level: float
    snr: float
    expressiveness: NDArray[np.float64]


@dataclass(frozen=True)
class Delivery:
    """Prosody and recording of one utterance (`tilt` in dB per octave, `level` and `snr` in dB)."""

    prosody: Prosody
    tilt: float
    level: float
    snr: float


def draw_voice(gender: str, rng: np.random.Generator) -> Voice:
    """Draw a speaker of the given gender."""
    return Voice(
        gender=gender,
        variant=str(rng.choice(VARIANTS[gender])),
        rate=rng.normal(195.0, 14.0),
        pitch=rng.normal(_PITCH[gender], 16.0),
        pitch_range=rng.normal(50.0, 8.0),
        tract=float(np.exp(rng.normal(np.log(_TRACT[gender]), 0.07))),
        colouring=rng.normal(0.0, 4.0, BANDS),
        level=rng.normal(-30.0, 3.0),
        snr=rng.uniform(12.0, 30.0),
        expressiveness=rng.lognormal(0.0, 0.4) * rng.normal(1.0, 0.35, (len(EMOTIONS), 5)),
    )


def draw_delivery(voice: Voice, emotion: str, rng: np.random.Generator) -> Delivery:
    """Draw the delivery of one utterance of a speaker in an emotion."""
    shift = np.array(_SHIFTS[emotion]) * voice.expressiveness[EMOTIONS.index(emotion)]
    rate, volume, pitch, pitch_range, tilt = shift + rng.normal(0.0, _JITTER)
    return Delivery(
        prosody=Prosody(
            rate=round(np.clip(voice.rate * (1 + rate), 120, 320)),
            volume=round(np.clip(100 + volume, 40, 160)),
            pitch=round(np.clip(voice.pitch + pitch, 0, 99)),
            pitch_range=round(np.clip(voice.pitch_range * (1 + pitch_range), 0, 99)),
        ),
        tilt=tilt,
        level=voice.level + rng.normal(0.0, 1.5),
        snr=voice.snr + rng.normal(0.0, 3.0),
    )
