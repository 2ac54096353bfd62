"""Corpora that try to mislead, to exhaust memory or to run code."""

import csv
import os
import pickle
import socket
import subprocess
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from fedser.client.corpora.audformat import Audformat
from fedser.client.corpora.manifest import Manifest
from fedser.client.speakers.corpus_data import COPIES, CorpusData, load_corpus
from fedser.common.errors import UserError
from tests.client.features.recordings import Loudness

SPEAKERS, UTTERANCES, RATE = 2, 4, 16000
EMOTIONS = ("neutral", "happiness", "sadness", "anger")
EVIL = "touched-by-the-corpus"


class Runs:
    """An object that runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.check_call, (["touch", str(self.mark)],)


@dataclass
class Made:
    """A corpus in a folder: two speakers with one noise recording per emotion."""

    folder: Path
    rows: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for speaker in range(SPEAKERS):
            for number, emotion in enumerate(EMOTIONS):
                name = f"s{speaker}-{number}.wav"
                self.write(name, noise(10 * speaker + number))
                gender = ("female", "male")[speaker]
                row = {"file": name, "speaker": f"s{speaker}", "emotion": emotion, "gender": gender}
                self.rows.append(row)

    def write(self, name: str, samples: np.ndarray, rate: int = RATE, **options: Any) -> None:
        soundfile.write(self.folder / name, samples, rate, **options)

    def load(self, on_bad_file: str = "error", **changes: Any) -> CorpusData:
        table = self.folder / "table.csv"
        if not table.exists():
            with table.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(self.rows[0]))
                writer.writeheader()
                writer.writerows(self.rows)
        given = {"root": None, "columns": {}, "emotions": {}, **changes}
        corpus = Manifest("made", 1, on_bad_file, file=str(table), **given)
        return load_corpus(corpus, Loudness(), self.folder / "cache")


@pytest.fixture
def made(tmp_path: Path) -> Made:
    (tmp_path / "made").mkdir()
    return Made(tmp_path / "made")


def noise(seed: int, length: int = 1600) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, length)


def header(folder: Path, name: str, offset: int, number: int) -> None:
    """Write a number into the header of a WAV file."""
    content = bytearray((folder / name).read_bytes())
    content[offset : offset + 4] = number.to_bytes(4, "little")
    (folder / name).write_bytes(content)


def relink(path: Path, target: Path | str) -> None:
    path.unlink()
    path.symlink_to(target)


def as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_socket(path: Path) -> None:
    path.unlink()
    held = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(path.parent)  # a path of a socket is short
    try:
        held.bind(path.name)
    finally:
        os.chdir(here)
        held.close()


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "an endless device": (lambda p: relink(p, "/dev/zero"), ""),
    "a device within": (lambda p: relink(p, "/dev/stdin"), ""),
    "a pipe": (as_fifo, ""),
    "a socket": (as_socket, ""),
    "a folder": (as_folder, ""),
    "a link to itself": (lambda p: relink(p, p.name), ""),
    "a link to nothing": (lambda p: relink(p, "nothing"), ""),
    "nothing": (lambda p: p.write_bytes(b""), "unreadable or empty audio"),
    "text": (lambda p: p.write_text("RIFF of no kind"), "unreadable or empty audio"),
    "a header alone": (lambda p: p.write_bytes(p.read_bytes()[:44]), "unreadable or empty audio"),
    "one hertz": (lambda p: header(p.parent, p.name, 24, 1), "says 1 Hz"),
    "two gigahertz": (lambda p: header(p.parent, p.name, 24, 2**31 - 1), "says 2147483647 Hz"),
    "an hour of silence": (
        lambda p: soundfile.write(p, np.zeros(3600 * 4000, np.int16), 4000, format="FLAC"),
        "says 3600 s; the limit is 1800 s",
    ),
    "many channels": (
        lambda p: soundfile.write(p, np.zeros((160, 100)), RATE, format="WAV"),
        "says 100 channels",
    ),
    "not a number": (
        lambda p: soundfile.write(p, [0.1, np.nan] * 800, RATE, subtype="FLOAT"),
        "samples are not finite",
    ),
    "infinity": (
        lambda p: soundfile.write(p, [0.1, np.inf] * 800, RATE, subtype="FLOAT"),
        "samples are not finite",
    ),
    "integers in float": (
        lambda p: soundfile.write(p, [3.0, -32768.0] * 800, RATE, subtype="FLOAT"),
        r"samples reach 3\.28e\+04: scale them to -1 to 1",
    ),
    "channels that cancel": (
        lambda p: soundfile.write(p, noise(99)[:, None] * [1, -1], RATE, subtype="FLOAT"),
        "channels cancel out",
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_rejected_or_counted(kind, made):
    make, reason = BAD_FILES[kind]
    make(made.folder / "s1-2.wav")
    with pytest.raises(UserError, match=reason) as refused:
        made.load()
    assert "\n" not in str(refused.value)
    assert "s1-2.wav" in str(refused.value) or "row 8" in str(refused.value)
    elsewhere = kind in ("an endless device", "a device within")
    found = made.load("skip", allow_outside=elsewhere)
    assert [path.name for path in found.skipped] == ["s1-2.wav"]
    assert len(found.utterances) == SPEAKERS * UTTERANCES - 1


def change(made: Made, row: int, **cells: str) -> None:
    made.rows[row].update(cells)


BAD_ROWS: dict[str, tuple[list[tuple[int, dict[str, str]]], str]] = {
    "a file of the system": ([(3, {"file": "/etc/passwd"})], "outside the folder .* in row 5: "),
    "a file above": ([(3, {"file": "../../x.wav"})], "outside the folder .* in row 5: "),
    "no byte of text": ([(3, {"file": "a\0b.wav"})], "audio file not found .* in row 5"),
    "a very long name": ([(3, {"file": "a" * 5000})], "audio file not found .* in row 5"),
    "a file twice": ([(3, {"file": "./s0-2.wav"})], "listed more than once in rows 4, 5"),
    "2 and 2.0": ([(0, {"speaker": "2"}), (1, {"speaker": "2.0"})], r"'2' .* and '2\.0' "),
    "2 and 02": ([(0, {"speaker": "2"}), (1, {"speaker": "02"})], r"'02' .* and '2' "),
    "two cases": ([(0, {"speaker": "Anna"}), (1, {"speaker": "anna"})], "'Anna' .* and 'anna' "),
    "spaces": ([(0, {"speaker": "a  b"}), (1, {"speaker": "a b"})], "'a  b' .* and 'a b' "),
    "two forms of Unicode": (
        [(n, {"speaker": unicodedata.normalize(f, "Zoë")}) for n, f in enumerate(("NFC", "NFD"))],
        "differ only in spelling",
    ),
    "two genders": (
        [(1, {"gender": "m"})],
        "speaker s0 is female in rows 2, 4, 5 and male in row 3: ",
    ),
    "a number as gender": (
        [(1, {"gender": "1"})],
        "gender '1' is not a word in row 3: write female or male",
    ),
    "nan": ([(1, {"gender": "NaN"})], "'NaN' in the column 'gender' in row 3: clear the cell"),
    "none": ([(1, {"speaker": "None"})], "'None' in the column 'speaker' in row 3: "),
    "an unknown emotion": ([(1, {"emotion": "<b>"})], "unknown emotion '<b>' in row 3: "),
    "an empty speaker": ([(1, {"speaker": " "})], "no speaker in row 3: fill in the cell"),
    "a lonely utterance": ([(1, {"speaker": "x"})], "speaker x has 1 utterance"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_misleading_row_is_rejected(kind, made):
    changes, reason = BAD_ROWS[kind]
    for row, cells in changes:
        change(made, row, **cells)
    with pytest.raises(UserError, match=reason):
        made.load()


TABLES = {
    "a column twice": (
        "file,speaker,emotion,emotion\na.wav,x,anger,neutral\n",
        r"the column 'emotion' 2 times \(columns 3, 4\)",
    ),
    "a column twice but for spaces": ("file,speaker, speaker,emotion\n", "'speaker' 2 times"),
    "a cell of a megabyte": (f"file,speaker,emotion\n{'a' * 2**20},x,anger\n", "not a table"),
    "an open quote": ('file,speaker,emotion\n"a.wav,x,anger\n', "not a table"),
    "bytes of no text": (b"file,speaker,emotion\n\xff\xfe,x,anger\n", "not a table"),
    "no rows": (
        "file,speaker,emotion\n,,\n ,,\n\n",
        "the table has no rows: add one row per recording",
    ),
    "a name for another form": (
        b"PAR1" + bytes(100) + b"PAR1",
        "the table has no rows: add one row per recording",
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_malformed_table_is_rejected(kind, made):
    content, reason = TABLES[kind]
    content = content if isinstance(content, bytes) else content.encode()
    (made.folder / "table.csv").write_bytes(content)
    with pytest.raises(UserError, match=reason):
        made.load()


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text + ",,,\n,,,\n\n",
        lambda text: "sep=,\n" + text,
        lambda text: text.replace(",", ";"),
        lambda text: "sep=;\r\n" + text.replace(",", ";").replace("\n", "\r\n"),
        lambda text: text.replace(",", "\t"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", ",\n"),
        lambda text: "".join(f"{n},{line}\n" if n else f",{line}\n" for n, line in enum(text)),
    ],
)
def test_spreadsheet_formats_of_a_table_are_read_the_same(rewrite, made):
    expected = made.load()
    table = made.folder / "table.csv"
    table.write_text(rewrite(table.read_text()), "utf-8", newline="")
    found = made.load()
    assert found.utterances == expected.utterances
    np.testing.assert_array_equal(found.features, expected.features)


def enum(text: str) -> list[tuple[int, str]]:
    return list(enumerate(text.splitlines()))


def test_large_and_ambiguous_parquet_files_are_rejected(made):
    table = made.folder / "table.parquet"
    columns = ["file", "speaker", "emotion"]
    many = pyarrow.table({name: pyarrow.repeat(1000 * name, 30_000) for name in columns})
    pyarrow.parquet.write_table(many, table, use_dictionary=False, compression="zstd")
    assert table.stat().st_size < 2**22
    corpus = Manifest("made", 1, "skip", file=str(table), root=None, columns={}, emotions={})
    with pytest.raises(UserError, match=r"not a readable Parquet file \(larger than 256 MiB\)"):
        corpus.listing(made.folder)
    twins = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 4, names=[*columns, "file"])
    pyarrow.parquet.write_table(twins, table)
    with pytest.raises(UserError, match="the column 'file' 2 times"):
        corpus.listing(made.folder)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_recording_of_two_speakers_is_rejected(suffix, made):
    samples, rate = soundfile.read(made.folder / "s0-1.wav", dtype="int16")
    soundfile.write(made.folder / f"copy{suffix}", samples, rate)
    made.rows.append({**made.rows[5], "file": f"copy{suffix}"})
    with pytest.raises(
        UserError, match=r"one recording has two speakers: .*copy.* and .*s0-1\.wav"
    ):
        made.load()
    change(made, -1, speaker="s0", emotion="sadness", gender="female")
    (made.folder / "table.csv").unlink()
    with pytest.raises(UserError, match="one recording has two emotions"):
        made.load()


def test_copies_of_one_speaker_are_left_out_and_counted(made):
    expected = made.load()
    samples, rate = soundfile.read(made.folder / "s0-1.wav", dtype="int16")
    for name in ("z.wav", "z.flac"):
        soundfile.write(made.folder / name, samples, rate)
        made.rows.append({**made.rows[1], "file": name})
    (made.folder / "table.csv").unlink()
    found = made.load()
    assert found.left_out == {COPIES: 2}
    assert [u.path for u in found.utterances] == [u.path for u in expected.utterances]
    np.testing.assert_array_equal(found.features, expected.features)


def audformat_of(folder: Path) -> Audformat:
    options = {"tables": None, "splits": None, "emotion": "emotion", "speaker": "speaker"}
    return Audformat("made", 1, "error", str(folder), **options, attributes=[], emotions={})


@pytest.mark.parametrize("name", ["x/evil", "/../innocent", "../up", "a b", "..", "evil", "-e"])
@pytest.mark.parametrize("section", ["tables", "misc_tables"])
def test_pickles_of_an_audformat_database_are_not_opened(name, section, tmp_path):
    mark, folder = tmp_path / EVIL, tmp_path / "base" / "db"
    folder.mkdir(parents=True)
    (folder / "db.yaml").write_text(
        f"name: db\nsource: x\nusage: other\nlanguages: []\nschemes:\n  emotion: {{dtype: str}}\n"
        f"  speaker: {{dtype: str}}\n{section}:\n  '{name}':\n    type: filewise\n"
        "    columns:\n      emotion: {scheme_id: emotion}\n      speaker: {scheme_id: speaker}\n"
    )
    (folder / "db.innocent.csv").write_text("file,emotion,speaker\na.wav,anger,x\n")
    for place in {
        folder / f"db.{name}.pkl",
        folder / "db.evil.pkl",
        folder.parent / "innocent.pkl",
    }:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(pickle.dumps(Runs(mark)))
    with pytest.raises(UserError):
        audformat_of(folder).listing(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        "!!python/object/apply:os.system ['touch {}']",
        "[" * 5000,
        "tables: 7",
        "tables: {{x: {{type: !!python/name:os.system }}}}",
        "- a\n- b",
        "",
        "\x00",
    ],
)
def test_a_malformed_header_is_rejected(content, tmp_path):
    (tmp_path / "db.yaml").write_text(content.format(tmp_path / EVIL))
    (tmp_path / "db.x.csv").write_text("file,emotion\n")
    with pytest.raises(UserError, match=r"db\.yaml: not a header of an audformat database"):
        audformat_of(tmp_path).listing(tmp_path)
    assert not (tmp_path / EVIL).exists()
