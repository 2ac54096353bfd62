from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from fedser.client.corpora.manifest import Manifest
from fedser.common.errors import UserError
from tests.client.corpora.conftest import WriteRecordings

COLUMNS = {"file": ["x/a.wav"], "who": ["s1"], "emotion": ["fear"], "gender": ["m"]}


def corpus(file: Path, root: Path | None = None, on_bad_file: str = "error") -> Manifest:
    return Manifest(
        name="manifest",
        file=str(file),
        root=None if root is None else str(root),
        columns={"file": "file", "speaker": "who", "emotion": "emotion"},
        emotions={"fear": "sadness"},
        shards=1,
        on_bad_file=on_bad_file,
    )


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_columns_and_emotions_are_mapped(
    write_recordings: WriteRecordings, tmp_path: Path, suffix: str
) -> None:
    file = write_recordings("x/a.wav") / f"list.{suffix}"
    if suffix == "csv":
        file.write_text("file,who,emotion,gender\nx/a.wav,s1,fear,m\n")
    else:
        pyarrow.parquet.write_table(pyarrow.table(COLUMNS), file)
    (found,) = corpus(file).listing(tmp_path).utterances
    assert (found.path, found.speaker, found.emotion) == (tmp_path / "x/a.wav", "s1", "sadness")
    assert found.attributes == {"corpus": "manifest", "gender": "male"}


def test_root_is_the_folder_of_audio_paths(
    write_recordings: WriteRecordings, tmp_path: Path
) -> None:
    write_recordings("elsewhere/x/a.wav")
    file = tmp_path / "list.csv"
    file.write_text("file,who,emotion\nx/a.wav,s1,fear\n")
    (found,) = corpus(file, root=tmp_path / "elsewhere").listing(tmp_path).utterances
    assert found.path == tmp_path / "elsewhere/x/a.wav"


def test_a_column_corpus_is_kept(write_recordings: WriteRecordings, tmp_path: Path) -> None:
    write_recordings("a.wav")
    file = tmp_path / "list.csv"
    file.write_text("file,who,emotion,corpus\na.wav,s1,fear,iemocap\n")
    (found,) = corpus(file).listing(tmp_path).utterances
    assert found.attributes == {"corpus": "iemocap"}


def test_missing_audio_is_rejected_or_kept(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("file,who,emotion\nx/a.wav,s1,fear\n")
    with pytest.raises(UserError, match=r"not found \(the first is .*x/a\.wav\) in row 2: "):
        corpus(file).listing(tmp_path)
    assert len(corpus(file, on_bad_file="skip").listing(tmp_path).utterances) == 1


def test_a_missing_table_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.csv: table not found: correct the key"):
        corpus(tmp_path / "absent.csv").listing(tmp_path)
