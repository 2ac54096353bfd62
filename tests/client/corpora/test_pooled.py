from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedser.client.corpora.base import Corpus, Utterance
from fedser.client.corpora.emodb import Emodb
from fedser.client.corpora.manifest import Manifest
from fedser.client.corpora.pooled import Pooled
from fedser.client.corpora.ravdess import Ravdess
from fedser.client.corpora.synthetic.corpus import Synthetic
from fedser.client.speakers.clients import make_clients
from fedser.client.speakers.corpus_data import CorpusData
from fedser.common.errors import UserError
from tests.client.corpora.conftest import WriteRecordings

EMOTIONS = ("neutral", "happiness", "sadness", "anger")


def manifest(
    write_recordings: WriteRecordings, name: str, speakers: list[str], columns: str, *cells: str
) -> Manifest:
    """Every speaker once in each emotion, all with the same cells in the further columns."""
    names = [f"{name}/{speaker}-{emotion}.wav" for speaker in speakers for emotion in EMOTIONS]
    folder = write_recordings(*names) / name
    rows = [
        ",".join((f"{speaker}-{emotion}.wav", speaker, emotion, *cells))
        for speaker in speakers
        for emotion in EMOTIONS
    ]
    (folder / "list.csv").write_text("\n".join([f"file,speaker,emotion{columns}", *rows]))
    columns_ = {"file": "file", "speaker": "speaker", "emotion": "emotion"}
    return Manifest(name, 1, "error", str(folder / "list.csv"), None, columns_, {})


def pool(*parts: Corpus, speakers: list[str] | None = None, shards: int = 1) -> Pooled:
    return Pooled("pooled", shards, "error", list(parts), speakers=speakers)


@pytest.fixture
def parts(write_recordings: WriteRecordings) -> tuple[Manifest, Manifest]:
    old = manifest(write_recordings, "old", ["01", "02", "03"], ",gender,age", "f", "61")
    new = manifest(write_recordings, "new", ["01", "02"], ",gender", "m")
    return old, new


def attributes(utterances: list[Utterance]) -> dict[str, dict[str, str]]:
    return {u.speaker: dict(u.attributes) for u in utterances}


def test_a_pool_has_all_utterances_of_all_parts(
    parts: tuple[Manifest, Manifest], tmp_path: Path
) -> None:
    found = pool(*parts).listing(tmp_path).utterances
    alone = [part.listing(tmp_path).utterances for part in parts]
    assert len(found) == sum(map(len, alone)) == 4 * 3 + 4 * 2
    assert [u.path for u in found] == [u.path for part in alone for u in part]
    assert [u.emotion for u in found] == [u.emotion for part in alone for u in part]
    assert Counter(u.speaker for u in found) == {
        **dict.fromkeys(("old/01", "old/02", "old/03"), 4),
        **dict.fromkeys(("new/01", "new/02"), 4),
    }


def test_each_part_keeps_its_own_attributes(
    parts: tuple[Manifest, Manifest], tmp_path: Path
) -> None:
    known = attributes(pool(*parts).listing(tmp_path).utterances)
    assert known["old/01"] == {"corpus": "old", "gender": "female", "age": "61"}
    assert known["new/01"] == {"corpus": "new", "gender": "male"}


def test_speakers_are_selected_in_the_pool_and_in_its_parts(
    parts: tuple[Manifest, Manifest], tmp_path: Path
) -> None:
    old, new = parts
    chosen = pool(old, new, speakers=["new/02", "old/01"]).listing(tmp_path).utterances
    assert {u.speaker for u in chosen} == {"new/02", "old/01"}
    within = pool(replace(old, speakers=["03"]), new).listing(tmp_path).utterances
    assert {u.speaker for u in within} == {"old/03", "new/01", "new/02"}
    rest = pool(old, new, speakers=["old/02", "old/03", "new/01"]).listing(tmp_path).utterances
    assert not {u.path for u in chosen} & {u.path for u in rest}
    assert len(chosen) + len(rest) == 20


def test_a_pool_can_contain_a_pool(parts: tuple[Manifest, Manifest], tmp_path: Path) -> None:
    known = attributes(pool(replace(pool(*parts), name="both")).listing(tmp_path).utterances)
    assert known["both/new/01"]["corpus"] == "new"


def test_a_pool_can_select_synthetic_speakers(tmp_path: Path) -> None:
    spoken = Synthetic("synthetic", 1, "error", "en", 2, 4, 0)
    found = pool(spoken, speakers=["synthetic/s001"]).listing(tmp_path).utterances
    assert len(found) == 4 and {u.attributes["gender"] for u in found} == {"male"}


def test_on_bad_file_of_the_pool_overrides_its_parts(
    parts: tuple[Manifest, Manifest], tmp_path: Path
) -> None:
    (tmp_path / "new/01-anger.wav").unlink()
    made = pool(*(replace(part, on_bad_file="skip") for part in parts))
    with pytest.raises(UserError, match="audio file not found"):
        made.listing(tmp_path)
    assert len(replace(made, on_bad_file="skip").listing(tmp_path).utterances) == 20


def test_a_pool_without_parts_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        pool().listing(tmp_path)
    assert str(error.value) == "corpus pooled: it has no parts: set corpus.parts=[NAME,NAME]"


def test_two_parts_of_the_same_name_are_rejected(
    parts: tuple[Manifest, Manifest], tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        pool(parts[0], parts[0]).listing(tmp_path)
    assert str(error.value) == (
        "corpus pooled: two of the parts old, old have the same name: give one part another name, "
        "as in {corpus: NAME, name: OTHER}"
    )


def test_shards_and_normalisation_are_per_speaker(
    parts: tuple[Manifest, Manifest], tmp_path: Path
) -> None:
    listed = pool(*parts, shards=2).listing(tmp_path).utterances
    features = np.random.default_rng(0).normal(5, 3, (len(listed), 6)).astype(np.float32)
    features[12:] += 100  # another microphone
    data = CorpusData("pooled", 2, listed, features, [str(u.path) for u in listed], [])
    made = make_clients(data, data.speakers, 0, "speaker")
    assert Counter(made.speakers) == dict.fromkeys(data.speakers, 2)
    assert set(made.corpora) == {"pooled"}
    for speaker in data.speakers:
        own = np.array([made.speakers[client] == speaker for client in made.client])
        train = made.features[own & ~made.validation]
        np.testing.assert_allclose(train.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(train.std(0), 1, atol=1e-5)


@pytest.mark.corpora
def test_real_corpora_can_be_pooled(data_root: Path, tmp_path: Path) -> None:
    ravdess = Ravdess("ravdess", 4, "error", str(data_root / "ravdess"), "drop")
    emodb = Emodb("emodb", 4, "error", str(data_root / "emodb"))
    found = pool(ravdess, emodb).listing(tmp_path).utterances
    assert Counter(u.attributes["corpus"] for u in found) == {"ravdess": 864 - 192, "emodb": 339}
    assert Counter(u.attributes["language"] for u in found) == {"en": 864 - 192, "de": 339}
    assert len({u.speaker for u in found}) == 24 + 10
    assert {u.attributes["corpus"] for u in found if "age" in u.attributes} == {"emodb"}
