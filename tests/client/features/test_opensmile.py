from pathlib import Path

import numpy as np
import pytest
import soundfile

from fedser.client.features.extract import extract
from fedser.client.features.opensmile import OpenSmile
from fedser.common.errors import UserError
from tests.client.features.recordings import write_recording


def extract_values(extractor: OpenSmile, paths: list[Path], cache: Path) -> np.ndarray:
    return extract(extractor, paths, cache, workers=1).values


@pytest.mark.parametrize(
    ("feature_set", "count"), [("emobase", 988), ("eGeMAPSv02", 88), ("ComParE_2016", 6373)]
)
def test_features_are_those_of_the_package(feature_set, count, tmp_path):
    import opensmile

    rng = np.random.default_rng(0)
    path = tmp_path / "noise.wav"
    soundfile.write(path, rng.normal(0, 0.1, 22050), 22050, subtype="FLOAT")
    direct = opensmile.Smile(
        feature_set=opensmile.FeatureSet[feature_set],
        feature_level=opensmile.FeatureLevel.Functionals,
        sampling_rate=16000,
        resample=True,
    ).process_file(path)
    ours = extract(OpenSmile(feature_set, 16000), [path], tmp_path / "cache").values
    assert ours.shape == (1, count)
    np.testing.assert_allclose(ours, direct.to_numpy(), rtol=1e-5)


def test_channels_are_averaged(tmp_path):
    left, right = np.random.default_rng(0).normal(0, 0.1, (2, 16000)).astype(np.float32)
    for name, samples in (("stereo", np.stack([left, right], 1)), ("mono", (left + right) / 2)):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000, subtype="FLOAT")
    paths = [tmp_path / "stereo.wav", tmp_path / "mono.wav"]
    stereo, mono = extract_values(OpenSmile("eGeMAPSv02", 16000), paths, tmp_path / "cache")
    np.testing.assert_array_equal(stereo, mono)


@pytest.mark.parametrize("feature_set", ["emobase", "eGeMAPSv02", "ComParE_2016"])
def test_silence_is_accepted_and_a_short_recording_rejected(feature_set, tmp_path):
    extractor = OpenSmile(feature_set, 16000)
    silent = write_recording(tmp_path / "silent.wav", 0.0, 16000)
    short = write_recording(tmp_path / "a.wav", 0.5, 400)
    assert np.isfinite(extract_values(extractor, [silent], tmp_path / "cache")).all()
    with pytest.raises(UserError, match=r"a\.wav: features are not finite \(silent or too short"):
        extract(extractor, [short], tmp_path / "cache", workers=1)


def test_an_unknown_feature_set_is_rejected(tmp_path):
    recording = write_recording(tmp_path / "a.wav", 0.5)
    with pytest.raises(UserError, match=r"features\.feature_set=emobas is not one of .*emobase"):
        extract(OpenSmile("emobas", 16000), [recording], tmp_path / "cache")
