from dataclasses import replace

import numpy as np
import pytest

from fedser.client.corpora.synthetic.espeak import Espeak, Prosody

PLAIN = Prosody(rate=180, volume=100, pitch=50, pitch_range=50)
TEXT = "My brother finds the letter."


def test_samples_do_not_depend_on_earlier_speech() -> None:
    with Espeak() as espeak:
        first = espeak.say(TEXT, "en+m1", PLAIN)
        again = espeak.say(TEXT, "en+m1", PLAIN)
    with Espeak() as espeak:
        fresh = espeak.say(TEXT, "en+m1", PLAIN)
    np.testing.assert_array_equal(first, fresh)
    assert not np.array_equal(first, again), "the library no longer keeps state: simplify Espeak"


def test_rate_and_volume_change_the_samples() -> None:
    with Espeak() as espeak:
        assert espeak.sample_rate == 22_050
        plain = espeak.say(TEXT, "en+f1", PLAIN)
        slow = espeak.say(TEXT, "en+f1", replace(PLAIN, rate=120))
        soft = espeak.say(TEXT, "en+f1", replace(PLAIN, volume=50))
    assert 1.0 < len(plain) / 22_050 < 2.5
    assert len(slow) / len(plain) == pytest.approx(180 / 120, rel=0.1)
    assert soft.std() / plain.std() == pytest.approx(0.5, rel=0.1)


def test_an_unknown_voice_is_rejected() -> None:
    with Espeak() as espeak, pytest.raises(OSError, match="no voice xx\\+m1"):
        espeak.say(TEXT, "xx+m1", PLAIN)
