import hashlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fedser.client.features.base import Extractor
from fedser.client.features.extract import extract
from fedser.common.errors import UserError
from tests.client.features.recordings import Loudness, write_recording


def cached(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (folder / "features").rglob("*.npy")}


def extract_values(extractor: Extractor, paths: list[Path], cache: Path) -> np.ndarray:
    return extract(extractor, paths, cache, workers=1).values


def test_features_have_the_order_of_the_paths(tmp_path):
    paths = [write_recording(tmp_path / f"{i}.wav", (i + 1) / 8, 800 + i) for i in range(3)]
    shuffled = [paths[2], paths[0], paths[1]]
    found = extract(Loudness(), shuffled, tmp_path / "cache", workers=2)
    np.testing.assert_allclose(found.values, [[3 / 8, 802], [1 / 8, 800], [2 / 8, 801]])
    assert found.kept == [0, 1, 2] and found.skipped == []
    samples, rate = soundfile.read(paths[0], dtype="float32")
    content = rate.to_bytes(8, "little") + samples.tobytes()
    assert found.digests[1] == hashlib.sha256(content).hexdigest()


def test_only_changed_audio_is_extracted_again(tmp_path):
    cache = tmp_path / "cache"
    first = write_recording(tmp_path / "a.wav", 0.5)
    second = write_recording(tmp_path / "b.wav", 0.25)
    extract_values(Loudness(), [first, second], cache)
    before = cached(cache)
    assert len(before) == 2
    renamed = first.rename(tmp_path / "renamed.wav")
    extract_values(Loudness(), [renamed, second], cache)
    assert cached(cache) == before
    write_recording(second, 0.75)
    values = extract_values(Loudness(), [renamed, second], cache)
    assert values[1, 0] == 0.75
    assert len(cached(cache)) == 3 and before.items() <= cached(cache).items()


def test_copies_in_any_format_have_the_same_digest(tmp_path):
    first = write_recording(tmp_path / "a.wav", 0.5)
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
def test_an_unreadable_recording_is_rejected_or_skipped(tmp_path, content, reason):
    good, bad = write_recording(tmp_path / "good.wav", 0.5), tmp_path / "bad.wav"
    bad.write_bytes(content)
    with pytest.raises(UserError, match=rf"bad\.wav: {reason}.*corpus\.on_bad_file=skip"):
        extract(Loudness(), [good, bad], tmp_path / "cache", workers=1)
    found = extract(Loudness(), [bad, good], tmp_path / "cache", skip_bad=True, workers=1)
    assert found.kept == [1] and found.skipped == [bad]


def test_features_that_are_not_finite_are_rejected(tmp_path):
    silent = write_recording(tmp_path / "silent.wav", 0.0)
    with pytest.raises(UserError, match=r"silent\.wav: features are not finite"):
        extract(Loudness(), [silent], tmp_path / "cache", workers=1)
    assert cached(tmp_path / "cache") == {}


def test_missing_recordings_and_bad_corpora_are_rejected(tmp_path):
    with pytest.raises(UserError, match=r"gone\.wav: No such file"):
        extract(Loudness(), [tmp_path / "gone.wav"], tmp_path / "cache")
    empty = tmp_path / "empty.wav"
    empty.touch()
    good = write_recording(tmp_path / "good.wav", 0.5)
    found = extract(Loudness(), [tmp_path / "gone.wav", good], tmp_path / "cache", skip_bad=True)
    assert found.kept == [1] and found.skipped == [tmp_path / "gone.wav"]
    with pytest.raises(UserError, match="no recording could be read"):
        extract(Loudness(), [empty], tmp_path / "cache", skip_bad=True, workers=1)


def test_a_bad_recording_does_not_affect_its_batch(tmp_path):
    lengths = [800, 5, 900, 802, 901, 801]
    paths = [
        write_recording(tmp_path / f"{i}.wav", 0.5, length) for i, length in enumerate(lengths)
    ]
    (tmp_path / "6.wav").write_bytes(b"not audio")
    extractor = Loudness(batch_size=2)
    with pytest.raises(UserError, match=r"1\.wav: no features \(too short for me\) \(and 1 more\)"):
        extract(extractor, [*paths, tmp_path / "6.wav"], tmp_path / "cache", workers=1)
    assert extractor.batches == [[901, 900], [802, 801], [800, 5], [800], [5]]
    again = Loudness(batch_size=2)
    found = extract(again, paths, tmp_path / "cache", skip_bad=True, workers=1)
    assert again.batches == [[5]] and found.skipped == [paths[1]]
    assert found.values[:, 1].tolist() == [800, 900, 802, 901, 801]
