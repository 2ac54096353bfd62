"""Log-mel energies, against those of torchaudio."""

import numpy as np
import pytest
import soundfile
import torch

from fedser.client.features.extract import extract
from fedser.client.features.logmel import LogMel
from fedser.client.features.pretrained import prepare_torchaudio
from fedser.common.errors import UserError

prepare_torchaudio()
from torchaudio.transforms import MelSpectrogram  # noqa: E402


def noise(length: int) -> np.ndarray:
    rng = np.random.default_rng(length)
    return (np.hanning(length) * rng.normal(0, 0.1, length)).astype(np.float32)


def torchaudio_frames(samples, sampling_rate, bands, window, hop):
    """Frames of MelSpectrogram, which puts windows in the middle of its transform."""
    width = window * sampling_rate // 1000
    made = MelSpectrogram(
        sampling_rate,
        n_fft=width,  # of a size that is fast already: 400, 480, 160
        hop_length=hop * sampling_rate // 1000,
        n_mels=bands,
        center=False,
    )
    return made(torch.from_numpy(samples)).T.clamp(min=1e-10).log().numpy()


@pytest.mark.parametrize(
    ("sampling_rate", "bands", "window", "hop"),
    [(16000, 40, 25, 20), (16000, 23, 30, 10), (8000, 10, 20, 7)],
)
def test_energies_are_those_of_torchaudio(sampling_rate, bands, window, hop):
    extractor, samples = LogMel(sampling_rate, bands, window, hop, 10_000), noise(17_003)
    (found,) = extractor([samples])
    expected = torchaudio_frames(samples, sampling_rate, bands, window, hop)
    assert found.shape == expected.shape and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert np.ptp(expected, axis=0).min() > 1


def test_a_tone_is_loudest_in_its_own_band():
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000).astype(np.float32)
    (found,) = LogMel(16000, 40, 25, 20, 200)([tone])
    mel = 2595 * np.log10(1 + 1000 / 700) / (2595 * np.log10(1 + 8000 / 700)) * 41
    assert set(found.argmax(axis=1)) == {round(mel) - 1}


def test_frames_of_a_corpus_are_padded_cut_and_cached(tmp_path):
    extractor = LogMel(16000, 8, 25, 20, 50)
    lengths = {"long": 32000, "one": 400, "short": 8000}
    paths = [tmp_path / f"{name}.wav" for name in lengths]
    for path, length in zip(paths, lengths.values(), strict=True):
        soundfile.write(path, noise(length), 16000, subtype="FLOAT")
    found = extract(extractor, paths, tmp_path / "cache", workers=1).values
    assert found.shape == (3, 50, 8)
    for features, (name, frames) in zip(
        found, {"long": 50, "one": 1, "short": 24}.items(), strict=True
    ):
        (alone,) = extractor([noise(lengths[name])])
        np.testing.assert_array_equal(features[:frames], alone)
        assert np.isnan(features[frames:]).all()
    stored = sorted(np.load(p).shape for p in (tmp_path / "cache/features").rglob("*.npy"))
    assert stored == [(1, 8), (24, 8), (50, 8)]
    (folder,) = (tmp_path / "cache" / "features").iterdir()
    assert folder.name == extractor.key == "logmel-16000-8bands-25ms-every20ms-50frames"
    again = extract(extractor, paths, tmp_path / "cache", workers=1).values
    np.testing.assert_array_equal(again, found)


def test_silence_is_accepted_and_a_short_recording_rejected(tmp_path):
    extractor = LogMel(16000, 8, 25, 20, 50)
    for name, samples in (
        ("silent", np.zeros(8000)),
        ("short", noise(399)),
        ("nan", np.full(800, np.nan)),
    ):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000, subtype="FLOAT")
    silent = extract(extractor, [tmp_path / "silent.wav"], tmp_path / "cache", workers=1).values
    np.testing.assert_allclose(silent[0, :24], np.log(1e-10), rtol=1e-6)
    for name, reason in (
        ("short", r"no features \(shorter than a window of 25 ms\)"),
        ("nan", "not finite"),
    ):
        with pytest.raises(UserError, match=rf"{name}\.wav: .*{reason}"):
            extract(extractor, [tmp_path / f"{name}.wav"], tmp_path / "cache", workers=1)


@pytest.mark.parametrize("changed", ["sampling_rate", "bands", "window", "hop", "frames"])
def test_parameters_below_one_are_rejected(changed):
    settings = {"sampling_rate": 16000, "bands": 40, "window": 25, "hop": 20, "frames": 200}
    with pytest.raises(UserError, match=rf"features\.{changed}=0: must be at least 1"):
        _ = LogMel(**{**settings, changed: 0}).key


def test_bands_without_a_frequency_are_rejected():
    with pytest.raises(
        UserError, match=r"features\.bands=120: \d+ band\(s\) would contain no frequency"
    ):
        _ = LogMel(16000, 120, 25, 20, 200).key
