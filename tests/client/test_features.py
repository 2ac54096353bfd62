import hashlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from client.errors import UserError
from client.features import Extractor, OpenSmile, extract


class Loudness:
    """Stands in for openSMILE: peak and length of a recording, NaN for a silent one."""

    key = "loudness"

    def __call__(self, path: Path) -> np.ndarray:
        samples, _ = soundfile.read(path, dtype="float32")
        peak = np.abs(samples).max()
        return np.array([peak if peak else np.nan, len(samples)], dtype=np.float32)


def write(path: Path, peak: float, length: int = 800) -> Path:
    soundfile.write(path, peak * np.cos(np.arange(length)), 16000, subtype="FLOAT")
    return path


def cached(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("*.npy")}


def check_extraction(extractor: Extractor, paths: list[Path], cache: Path) -> np.ndarray:
    return extract(extractor, paths, cache, workers=1).values


def test_values_come_back_in_the_order_of_the_paths(tmp_path):
    paths = [write(tmp_path / f"{i}.wav", (i + 1) / 8, 800 + i) for i in range(3)]
    shuffled = [paths[2], paths[0], paths[1]]
    found = extract(Loudness(), shuffled, tmp_path / "cache", workers=2)
    np.testing.assert_allclose(found.values, [[3 / 8, 802], [1 / 8, 800], [2 / 8, 801]])
    assert found.kept == [0, 1, 2] and found.skipped == []
    assert found.digests[1] == hashlib.sha256(paths[0].read_bytes()).hexdigest()


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


def test_one_recording_under_two_names_gives_two_rows(tmp_path):
    first = write(tmp_path / "a.wav", 0.5)
    second = tmp_path / "b.wav"
    second.write_bytes(first.read_bytes())
    values = check_extraction(Loudness(), [first, second], tmp_path / "cache")
    np.testing.assert_array_equal(values[0], values[1])


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
    assert cached(tmp_path) == {}


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


def test_opensmile_matches_the_package_called_directly(tmp_path):
    import opensmile

    rng = np.random.default_rng(0)
    path = tmp_path / "noise.wav"
    soundfile.write(path, rng.normal(0, 0.1, 16000), 16000, subtype="FLOAT")
    direct = opensmile.Smile(
        feature_set=opensmile.FeatureSet.emobase,
        feature_level=opensmile.FeatureLevel.Functionals,
    ).process_file(path)
    ours = OpenSmile("emobase", 16000)(path)
    assert ours.shape == (988,)
    np.testing.assert_allclose(ours, direct.to_numpy()[0], rtol=1e-5)


def test_an_unknown_feature_set_and_no_samples_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"features\.feature_set=emobas is not one of .*emobase"):
        OpenSmile("emobas", 16000)(write(tmp_path / "a.wav", 0.5))
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16000)
    with pytest.raises(ValueError, match="no samples"):
        OpenSmile("emobase", 16000)(tmp_path / "none.wav")
    soundfile.write(tmp_path / "nan.wav", np.full(800, np.nan), 16000, subtype="FLOAT")
    with pytest.raises(ValueError, match="samples are not finite"):
        OpenSmile("emobase", 16000)(tmp_path / "nan.wav")
