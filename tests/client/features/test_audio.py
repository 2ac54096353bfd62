import numpy as np
import pytest
import soundfile

from fedser.client.features.audio import AudioError, read_audio


def test_recordings_without_usable_samples_are_rejected(tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16000)
    with pytest.raises(AudioError, match="no samples"):
        read_audio(tmp_path / "none.wav", 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(800, np.nan), 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="samples are not finite"):
        read_audio(tmp_path / "nan.wav", 16000)
