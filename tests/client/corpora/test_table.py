from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from fedser.client.corpora import table
from fedser.common.errors import UserError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "list.csv"


def test_cells_are_stripped_and_stay_text(file: Path) -> None:
    file.write_text('\ufefffile,speaker ,emotion,note\na.wav, 01,anger,"x, y"\n\n', "utf-8")
    assert table.read(file).rows == [
        {"file": "a.wav", "speaker": "01", "emotion": "anger", "note": "x, y"}
    ]


def test_columns_can_have_other_names(file: Path) -> None:
    file.write_text("path,speaker,who,emotion\na.wav,x,01,anger\n")
    rows = table.read(file, {"file": "path", "speaker": "who"}).rows
    assert rows == [{"file": "a.wav", "speaker": "01", "emotion": "anger"}]


def test_parquet_is_read_as_text(tmp_path: Path) -> None:
    columns = {"file": ["a.wav"], "speaker": [7], "emotion": ["anger"], "age": [None]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "list.parquet")
    assert table.read(tmp_path / "list.parquet").rows == [
        {"file": "a.wav", "speaker": "7", "emotion": "anger", "age": ""}
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"file,speaker,feeling\na.wav,01,anger\n",
            "no column 'emotion' (the columns are file, speaker, feeling): "
            "rename a column, or set corpus.columns.emotion with corpus=manifest",
        ),
        (b"", "the table has no rows: add one row per recording"),
        (b"file,speaker,emotion\n", "the table has no rows: add one row per recording"),
        (
            b"file,speaker,emotion\na.wav,01,anger\nb.wav,01\n",
            "row 3 has 2 cells but the header has 3: "
            "put cells that contain the delimiter in quotes",
        ),
        (
            b"file,speaker,emotion\na.wav,01,\xe4rger\n",
            "not a table ('utf-8' codec can't decode byte 0xe4 in position 30: "
            "invalid continuation byte): save it as CSV in UTF-8",
        ),
        (
            b'file,speaker,emotion\na.wav,01,"anger\n',
            "not a table (unexpected end of data): save it as CSV in UTF-8",
        ),
    ],
)
def test_unusable_text_is_rejected(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        table.read(file)
    assert str(error.value) == f"{file}: {message}"


def test_unusable_parquet_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "list.parquet").write_text("file,speaker,emotion\n")
    with pytest.raises(
        UserError, match=r"list\.parquet: not a readable Parquet file \(.*\): save it again$"
    ):
        table.read(tmp_path / "list.parquet")


def test_a_missing_table_is_rejected(file: Path) -> None:
    with pytest.raises(UserError) as error:
        table.read(file)
    assert str(error.value) == f"{file}: table not found: correct the key that names it"
