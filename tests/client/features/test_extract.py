import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

from fedser.client.features.audio import AudioError, read_audio
from fedser.client.features.base import Extractor
from fedser.client.features.extract import extract
from fedser.client.features.huggingface import HuggingFace
from fedser.client.features.logmel import LogMel
from fedser.client.features.opensmile import OpenSmile
from fedser.client.features.s3prl import S3prl
from fedser.common.errors import UserError


class Loudness:
    """Stands in for openSMILE: peak and length of a recording, NaN for a silent one."""

    key = "loudness"
    sampling_rate = 16000
    side_by_side = True
    frames = None

    def __init__(self, batch_size: int = 1) -> None:
        self.batch_size = batch_size
        self.batches: list[list[int]] = []

    def __call__(self, recordings: Sequence[np.ndarray]) -> np.ndarray:
        self.batches.append([len(samples) for samples in recordings])
        if min(self.batches[-1]) < 10:
            raise RuntimeError("too  short\nfor me")
        peaks = [np.abs(samples).max() or np.nan for samples in recordings]
        return np.array(list(zip(peaks, self.batches[-1], strict=True)), dtype=np.float32)


def write(path: Path, peak: float, length: int = 800) -> Path:
    soundfile.write(path, peak * np.cos(np.arange(length)), 16000, subtype="FLOAT")
    return path


def cached(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (folder / "features").rglob("*.npy")}


def check_extraction(extractor: Extractor, paths: list[Path], cache: Path) -> np.ndarray:
    return extract(extractor, paths, cache, workers=1).values


def test_values_come_back_in_the_order_of_the_paths(tmp_path):
    paths = [write(tmp_path / f"{i}.wav", (i + 1) / 8, 800 + i) for i in range(3)]
    shuffled = [paths[2], paths[0], paths[1]]
    found = extract(Loudness(), shuffled, tmp_path / "cache", workers=2)
    np.testing.assert_allclose(found.values, [[3 / 8, 802], [1 / 8, 800], [2 / 8, 801]])
    assert found.kept == [0, 1, 2] and found.skipped == []
    samples, rate = soundfile.read(paths[0], dtype="float32")
    content = rate.to_bytes(8, "little") + samples.tobytes()
    assert found.digests[1] == hashlib.sha256(content).hexdigest()


def test_only_changed_audio_is_extracted_anew(tmp_path):
    cache = tmp_path / "cache"
    first, second = write(tmp_path / "a.wav", 0.5), write(tmp_path / "b.wav", 0.25)
    check_extraction(Loudness(), [first, second], cache)
    before = cached(cache)
    assert len(before) == 2
    renamed = first.rename(tmp_path / "renamed.wav")
    check_extraction(Loudness(), [renamed, second], cache)
    assert cached(cache) == before
    write(second, 0.75)
    values = check_extraction(Loudness(), [renamed, second], cache)
    assert values[1, 0] == 0.75
    assert len(cached(cache)) == 3 and before.items() <= cached(cache).items()


def test_copies_of_a_recording_have_one_digest_in_any_format(tmp_path):
    first = write(tmp_path / "a.wav", 0.5)
    second, third = tmp_path / "b.wav", tmp_path / "c.wav"
    second.write_bytes(first.read_bytes())
    samples = soundfile.read(first, dtype="float32")[0]
    soundfile.write(third, np.column_stack([samples, samples]), 16000, subtype="FLOAT")
    found = extract(Loudness(), [first, second, third], tmp_path / "cache", workers=1)
    np.testing.assert_array_equal(found.values[0], found.values[1])
    assert len(set(found.digests)) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"not audio", "unreadable or empty audio"), (b"", "unreadable or empty audio")],
)
def test_an_unreadable_recording_is_named(tmp_path, content, reason):
    good, bad = write(tmp_path / "good.wav", 0.5), tmp_path / "bad.wav"
    bad.write_bytes(content)
    with pytest.raises(UserError, match=rf"bad\.wav: {reason}.*corpus\.on_bad_file=skip"):
        extract(Loudness(), [good, bad], tmp_path / "cache", workers=1)
    found = extract(Loudness(), [bad, good], tmp_path / "cache", skip_bad=True, workers=1)
    assert found.kept == [1] and found.skipped == [bad]


def test_features_that_are_not_finite_are_refused(tmp_path):
    silent = write(tmp_path / "silent.wav", 0.0)
    with pytest.raises(UserError, match=r"silent\.wav: features are not finite"):
        extract(Loudness(), [silent], tmp_path / "cache", workers=1)
    assert cached(tmp_path / "cache") == {}


def test_a_missing_recording_and_an_all_bad_corpus_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"gone\.wav: No such file"):
        extract(Loudness(), [tmp_path / "gone.wav"], tmp_path / "cache")
    empty = tmp_path / "empty.wav"
    empty.touch()
    good = write(tmp_path / "good.wav", 0.5)
    found = extract(Loudness(), [tmp_path / "gone.wav", good], tmp_path / "cache", skip_bad=True)
    assert found.kept == [1] and found.skipped == [tmp_path / "gone.wav"]
    with pytest.raises(UserError, match="no recording could be read"):
        extract(Loudness(), [empty], tmp_path / "cache", skip_bad=True, workers=1)


def test_batches_are_of_similar_length_and_one_bad_recording_spoils_none(tmp_path):
    lengths = [800, 5, 900, 802, 901, 801]
    paths = [write(tmp_path / f"{i}.wav", 0.5, length) for i, length in enumerate(lengths)]
    (tmp_path / "6.wav").write_bytes(b"not audio")
    extractor = Loudness(batch_size=2)
    with pytest.raises(UserError, match=r"1\.wav: no features \(too short for me\) \(and 1 more\)"):
        extract(extractor, [*paths, tmp_path / "6.wav"], tmp_path / "cache", workers=1)
    assert extractor.batches == [[901, 900], [802, 801], [800, 5], [800], [5]]
    again = Loudness(batch_size=2)
    found = extract(again, paths, tmp_path / "cache", skip_bad=True, workers=1)
    assert again.batches == [[5]] and found.skipped == [paths[1]]
    assert found.values[:, 1].tolist() == [800, 900, 802, 901, 801]


@pytest.mark.parametrize(
    ("feature_set", "count"), [("emobase", 988), ("eGeMAPSv02", 88), ("ComParE_2016", 6373)]
)
def test_opensmile_matches_the_package_called_directly(feature_set, count, tmp_path):
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


def test_channels_are_mixed_down(tmp_path):
    left, right = np.random.default_rng(0).normal(0, 0.1, (2, 16000)).astype(np.float32)
    for name, samples in (("stereo", np.stack([left, right], 1)), ("mono", (left + right) / 2)):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000, subtype="FLOAT")
    paths = [tmp_path / "stereo.wav", tmp_path / "mono.wav"]
    stereo, mono = check_extraction(OpenSmile("eGeMAPSv02", 16000), paths, tmp_path / "cache")
    np.testing.assert_array_equal(stereo, mono)


@pytest.mark.parametrize("feature_set", ["emobase", "eGeMAPSv02", "ComParE_2016"])
def test_silence_has_features_and_a_recording_shorter_than_a_window_has_none(feature_set, tmp_path):
    extractor = OpenSmile(feature_set, 16000)
    silent, short = write(tmp_path / "silent.wav", 0.0, 16000), write(tmp_path / "a.wav", 0.5, 400)
    assert np.isfinite(check_extraction(extractor, [silent], tmp_path / "cache")).all()
    with pytest.raises(UserError, match=r"a\.wav: features are not finite \(silent or too short"):
        extract(extractor, [short], tmp_path / "cache", workers=1)


def test_an_unknown_feature_set_and_unusable_samples_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"features\.feature_set=emobas is not one of .*emobase"):
        extract(OpenSmile("emobas", 16000), [write(tmp_path / "a.wav", 0.5)], tmp_path / "cache")
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16000)
    with pytest.raises(AudioError, match="no samples"):
        read_audio(tmp_path / "none.wav", 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(800, np.nan), 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="samples are not finite"):
        read_audio(tmp_path / "nan.wav", 16000)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["features=emobase"], OpenSmile("emobase", 16000)),
        (["features=egemaps"], OpenSmile("eGeMAPSv02", 16000)),
        (["features=compare"], OpenSmile("ComParE_2016", 16000)),
        (["features=logmel"], LogMel(16000, 40, 25, 20, 200)),
        (["features=huggingface", "features.path=/m"], HuggingFace("/m", -1, 8)),
        (
            ["features=huggingface", "features.path=/m", "features.frames=9"],
            HuggingFace("/m", -1, 8, 9),
        ),
        (
            ["features=s3prl", "features.upstream=apc", "features.checkpoint=/c"],
            S3prl("apc", "/c", -1),
        ),
    ],
)
def test_the_choices_of_the_configuration(overrides, expected):
    with initialize_config_module("fedser.conf", version_base="1.3"):
        config = compose(overrides=["+" + overrides[0], *overrides[1:]])
    assert instantiate(config.features) == expected
