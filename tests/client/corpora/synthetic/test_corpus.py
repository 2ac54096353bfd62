from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile

from fedser.client.corpora.synthetic import corpus as synthetic
from fedser.client.corpora.synthetic.corpus import Synthetic, render_corpus
from fedser.common.errors import UserError

CORPUS = Synthetic(
    name="synthetic",
    language="en",
    speakers=4,
    utterances_per_speaker=8,
    seed=0,
    shards=1,
    on_bad_file="error",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cache that holds `CORPUS`."""
    folder = tmp_path_factory.mktemp("cache")
    CORPUS.listing(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def reject_to_render(*_: Any) -> None:
    raise AssertionError("rendered again")


def test_audio_is_balanced_and_valid(cache: Path) -> None:
    found = CORPUS.listing(cache).utterances
    assert set(Counter((u.speaker, u.emotion) for u in found).values()) == {2}
    genders = {u.speaker: u.attributes["gender"] for u in found}
    assert Counter(genders.values()) == {"female": 2, "male": 2}
    assert found == sorted(found, key=lambda u: u.path)
    for utterance in found:
        info = soundfile.info(utterance.path)
        assert (info.format, info.samplerate, info.channels) == ("FLAC", 16_000, 1)
        assert 0.8 < info.duration < 5.0
        assert soundfile.read(utterance.path)[0].std() > 0.005


@pytest.mark.parametrize("processes", [1, 2])
def test_audio_does_not_depend_on_the_processes(
    cache: Path, tmp_path: Path, processes: int
) -> None:
    render_corpus(CORPUS, tmp_path / "again", processes)
    (rendered,) = (cache / "synthetic").iterdir()
    assert contents(tmp_path / "again") == contents(rendered)


def test_a_rendered_corpus_is_cached(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "render_corpus", reject_to_render)
    other = replace(CORPUS, name="other", shards=2, on_bad_file="skip")
    assert other.read(cache) == CORPUS.read(cache)


@pytest.mark.parametrize("change", [{"seed": 1}, {"language": "de"}, {"language": "pl"}])
def test_other_parameters_give_another_corpus(tmp_path: Path, change: dict[str, Any]) -> None:
    small = replace(CORPUS, speakers=1, utterances_per_speaker=4)
    first = {u.path.read_bytes() for u in small.listing(tmp_path).utterances}
    other = {u.path.read_bytes() for u in replace(small, **change).listing(tmp_path).utterances}
    assert len(first | other) == 8
    assert len(list((tmp_path / "synthetic").iterdir())) == 2


def test_an_interrupted_rendering_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_after_one(spoken: Iterator[Any], *_: Any, **__: Any) -> Iterator[Any]:
        yield next(spoken)
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "tqdm", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        CORPUS.listing(tmp_path)
    assert list((tmp_path / "synthetic").iterdir()) == []


def test_a_corpus_of_another_run_is_not_replaced(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    (folder / "audio").mkdir(parents=True)
    render_corpus(replace(CORPUS, speakers=1, utterances_per_speaker=4), folder, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    assert list((folder / "audio").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"language": "xx"}, "corpus.language=xx: must be one of en, de, pl"),
        ({"speakers": 0}, "corpus.speakers=0: must be at least 1"),
        ({"seed": -1}, "corpus.seed=-1: must be at least 0"),
        (
            {"utterances_per_speaker": 25},
            "corpus.utterances_per_speaker=25: must be a positive multiple of 4, "
            "the number of emotions",
        ),
    ],
)
def test_invalid_parameters_are_rejected(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        replace(CORPUS, **change).listing(tmp_path)
    assert str(error.value) == message
    assert list(tmp_path.iterdir()) == []
