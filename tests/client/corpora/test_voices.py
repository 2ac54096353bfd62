from dataclasses import astuple

import numpy as np
import pytest

from client.corpora.base import EMOTIONS
from client.corpora.voices import draw_delivery, draw_voice


def test_emotions_move_the_prosody() -> None:
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


@pytest.mark.parametrize("gender", ["female", "male"])
def test_variants_match_the_gender(gender: str) -> None:
    rng = np.random.default_rng(0)
    variants = {draw_voice(gender, rng).variant for _ in range(200)}
    assert {variant[0] for variant in variants} == {gender[0]}
    assert len(variants) == {"female": 5, "male": 8}[gender]
