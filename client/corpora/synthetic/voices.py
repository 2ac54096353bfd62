"""Synthetic speakers: who they are, how each emotion moves their voice, how they were recorded.

Every distribution of a speaker's voice overlaps between the genders, and speakers differ in how
much of an emotion they show, so neither emotion nor gender can be read off one feature.
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

# Mean pitch in eSpeak units. The variants alone would part the genders cleanly (about 100 Hz
# against 200 Hz): higher men and lower women make them meet.
_PITCH = {"female": 35.0, "male": 66.0}
_TRACT = {"female": 0.94, "male": 1.06}

# What a fully expressive speaker adds to neutral speech: rate and range as fractions, volume and
# pitch in eSpeak units, spectral tilt in dB an octave (vocal effort). Directions after Scherer,
# "Vocal communication of emotion", Speech Communication 40 (2003).
_SHIFTS = {
    "neutral": (0.0, 0.0, 0.0, 0.0, 0.0),
    "happiness": (0.08, 10.0, 11.0, 0.40, 0.3),
    "sadness": (-0.11, -12.0, -7.0, -0.25, -0.8),
    "anger": (0.08, 20.0, 4.0, 0.10, 1.1),
}
_JITTER = (0.055, 8.0, 3.6, 0.15, 0.45)  # of one utterance, same units
BANDS = 8
"""Number of points of a speaker's spectral colouring, spread evenly from 0 to 8 kHz."""


@dataclass(frozen=True)
class Voice:
    """One synthetic speaker.

    Attributes
    ----------
    gender, variant : str
        ``female`` or ``male``, and an eSpeak NG voice variant of that gender.
    rate, pitch, pitch_range : float
        Of neutral speech, in eSpeak units.
    tract : float
        Factor on all frequencies: a shorter vocal tract raises the formants.
    colouring : ndarray of shape (BANDS,)
        Gain in dB of tract and microphone over frequency.
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
    """How one utterance is spoken and recorded (`tilt` in dB an octave, the others in dB)."""

    prosody: Prosody
    tilt: float
    level: float
    snr: float


def draw_voice(gender: str, rng: np.random.Generator) -> Voice:
    """Draw a speaker of one gender."""
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
    """Draw one utterance of a speaker in an emotion."""
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
