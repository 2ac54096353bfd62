from collections import defaultdict
from dataclasses import astuple

import numpy as np
import pytest

from fedser.client.corpora.base import EMOTIONS
from fedser.client.corpora.synthetic.espeak import Espeak, Prosody
from fedser.client.corpora.synthetic.voices import VARIANTS, draw_delivery, draw_voice


def test_emotions_shift_the_prosody() -> None:
    rng = np.random.default_rng(0)
    voices = [draw_voice(gender, rng) for gender in ("female", "male") for _ in range(200)]
    rate, volume, pitch, pitch_range, tilt = np.transpose(
        [
            np.mean([(*astuple(d.prosody), d.tilt) for d in drawn], axis=0)
            for drawn in (
                [draw_delivery(voice, emotion, rng) for voice in voices for _ in range(5)]
                for emotion in EMOTIONS
            )
        ]
    )
    neutral, happiness, sadness, anger = range(4)
    assert rate[sadness] < rate[neutral] < min(rate[happiness], rate[anger])
    assert volume[sadness] < volume[neutral] < volume[happiness] < volume[anger]
    assert pitch[sadness] < pitch[neutral] < pitch[anger] < pitch[happiness]
    assert pitch_range[sadness] < pitch_range[neutral] < pitch_range[happiness]
    assert tilt[sadness] < tilt[neutral] < tilt[anger]


@pytest.mark.parametrize("gender", VARIANTS)
def test_every_variant_is_drawn(gender: str) -> None:
    rng = np.random.default_rng(0)
    assert {draw_voice(gender, rng).variant for _ in range(200)} == set(VARIANTS[gender])


def test_every_variant_is_reproducible() -> None:
    synthesised = defaultdict(set)
    for variant in (*VARIANTS["female"], *VARIANTS["male"]) * 5:
        with Espeak() as espeak:
            samples = espeak.say("A word.", f"en+{variant}", Prosody(200, 100, 50, 50))
        synthesised[variant].add(samples.tobytes())
    assert {variant: len(different) for variant, different in synthesised.items()} == dict.fromkeys(
        synthesised, 1
    )
