"""Random tables and folders: each row and each recording is used or counted."""

import csv
import io
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from fedser.client.corpora.base import Corpus
from fedser.client.corpora.manifest import Manifest
from fedser.client.corpora.overview import AUDIO, completeness
from fedser.client.corpora.ravdess import Ravdess
from fedser.client.speakers.corpus_data import CorpusData, load_corpus
from fedser.common.errors import UserError
from tests.client.features.recordings import Loudness

TABLES, FOLDERS = 400, 100
SPEAKERS, EACH = 4, 6
EMOTIONS = ("neutral", "happy", "Sad", "anger", "calm", "joy", "SADNESS")
MAPPED = {"calm": None, "boredom": None, "wut": "anger"}
BAD = {"empty.wav": b"", "text.wav": b"no audio at all", "half.wav": b"RIFF\x24\x00\x00\x00WAVE"}
Row = dict[str, str]


def write_recording(path: Path, seed: int) -> None:
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, 400), 16000)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recordings, copies, bad files and one subfolder."""
    folder = tmp_path_factory.mktemp("pool")
    for speaker in range(SPEAKERS):
        for number in range(EACH):
            write_recording(folder / f"{speaker}-{number}.wav", speaker * EACH + number)
        shutil.copy(folder / f"{speaker}-0.wav", folder / f"{speaker}-copy.wav")
    (folder / "below").mkdir()
    write_recording(folder / "below" / "0-9.wav", 1000)
    for name, content in BAD.items():
        (folder / name).write_bytes(content)
    return folder


def one_of(draw: random.Random, *choices: Any) -> Any:
    return draw.choice(choices)


ODDITIES: dict[str, Callable[[random.Random, list[Row]], Any]] = {
    "a copy of a row": lambda draw, rows: rows.append(dict(draw.choice(rows))),
    "a copied recording": lambda draw, rows: rows.append(
        draw.choice(rows) | {"file": f"{draw.randrange(SPEAKERS)}-copy.wav"}
    ),
    "a bad recording": lambda draw, rows: draw.choice(rows).update(file=draw.choice(list(BAD))),
    "no recording": lambda draw, rows: draw.choice(rows).update(file="gone.wav"),
    "one further below": lambda draw, rows: draw.choice(rows).update(file="below/0-9.wav"),
    "one outside": lambda draw, rows: draw.choice(rows).update(file="../x.wav"),
    "a folder": lambda draw, rows: draw.choice(rows).update(file="below"),
    "an empty cell": lambda draw, rows: draw.choice(rows).update(
        {draw.choice(list(rows[0])): one_of(draw, "", " ", "\t")}
    ),
    "a word for nothing": lambda draw, rows: draw.choice(rows).update(
        {draw.choice(list(rows[0])): one_of(draw, "nan", "NaN", "None", "null")}
    ),
    "another speaker": lambda draw, rows: draw.choice(rows).update(speaker=f"s{SPEAKERS + 1}"),
    "a speaker spelled otherwise": lambda draw, rows: draw.choice(rows).update(
        speaker=one_of(draw, "S1", " s1", "s1 ", "\uff531", "s01")
    ),
    "another gender": lambda draw, rows: draw.choice(rows).update(
        gender=one_of(draw, "f", "m", "male", "", "x", "0")
    ),
    "an emotion without a name": lambda draw, rows: draw.choice(rows).update(emotion="ennui"),
    "a mapped emotion": lambda draw, rows: draw.choice(rows).update(
        emotion=one_of(draw, "boredom", "Boredom", "wut", "calm")
    ),
    "an odd age": lambda draw, rows: draw.choice(rows).update(
        age=one_of(draw, "30", "-1", "old", "30.0", "1e3")
    ),
    "odd letters": lambda draw, rows: draw.choice(rows).update(
        place=one_of(draw, "a,b", 'a "b"', "c;d", "é", "é", "\u202eabc", "a\nb", "[/b]", "=1+1")
    ),
    "a column twice": lambda draw, rows: [row.update({"Emotion": "anger"}) for row in rows],
    "no speakers": lambda draw, rows: [row.pop("speaker") for row in rows],
}


def drawn_rows(draw: random.Random) -> list[Row]:
    rows = []
    for speaker in draw.sample(range(SPEAKERS), draw.randint(1, SPEAKERS)):
        for number in draw.sample(range(EACH), draw.randint(2, EACH)):
            row = {"file": f"{speaker}-{number}.wav", "speaker": f"s{speaker}"}
            row |= {"emotion": draw.choice(EMOTIONS), "gender": ("female", "M")[speaker % 2]}
            rows.append(row | {"age": str(20 + speaker), "place": "here"})
    draw.shuffle(rows)
    for _ in range(one_of(draw, 0, 0, 1, 1, 2)):
        ODDITIES[draw.choice(list(ODDITIES))](draw, rows)
    return rows


def write_table(draw: random.Random, rows: list[Row], folder: Path, number: int) -> Path:
    """Write rows with a random format, delimiter, byte order mark, line end and empty rows."""
    if draw.random() < 0.15:
        path = folder / f"{number}.parquet"
        pd.DataFrame(rows).to_parquet(path)
        return path
    path, buffer = folder / f"{number}.csv", io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    delimiter = one_of(draw, ",", ",", ";", "\t")
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=one_of(draw, "\n", "\r\n"))
    writer.writerow(columns)
    for row in rows:
        writer.writerow([row.get(column, "") for column in columns])
        if draw.random() < 0.02:
            writer.writerow(one_of(draw, [], [""] * len(columns)))
    start = f"sep={delimiter}\n" if draw.random() < 0.05 else ""
    path.write_bytes((start + buffer.getvalue()).encode(one_of(draw, "utf-8", "utf-8-sig")))
    return path


def load(corpus: Corpus, cache: Path) -> CorpusData | str:
    """Return the corpus or the message of its rejection; other errors fail the test."""
    try:
        return load_corpus(corpus, Loudness(), cache)
    except UserError as error:
        assert len(str(error).splitlines()) == 1, str(error)
        return str(error)


def accounted(data: CorpusData) -> int:
    return len(data.utterances) + sum(data.left_out.values()) + len(data.skipped)


def test_each_row_is_used_or_counted_as_left_out(pool: Path) -> None:
    outcomes = Counter[str]()
    for number in range(TABLES):
        draw = random.Random(number)
        rows = drawn_rows(draw)
        path = write_table(draw, rows, pool, number)
        skip, emotions = one_of(draw, "error", "skip"), dict(MAPPED)
        corpus = Manifest("made", 1, skip, file=str(path), root=None, columns={}, emotions=emotions)
        found = load(corpus, pool / "cache")
        if isinstance(found, CorpusData):
            assert accounted(found) == len(rows), f"{path}: {found.left_out}, {found.skipped}"
            assert len(found.features) == len(found.utterances)
        outcomes["rejected" if isinstance(found, str) else "used"] += 1
    assert min(outcomes["used"], outcomes["rejected"]) > TABLES // 5, outcomes


STRAYS = ("{}.WAV", "._{}.wav", "{} (1).wav", "old/{}.wav", "{}.flac", "{}.txt", "note-{}.wav")


def test_each_recording_is_used_or_counted_as_left_out(tmp_path: Path) -> None:
    outcomes = Counter[str]()
    for number in range(FOLDERS):
        draw, root = random.Random(number), tmp_path / str(number)
        root.mkdir()
        names = [
            f"03-01-{emotion:02}-01-01-{take:02}-{actor:02}"
            for actor in draw.sample(range(1, 25), draw.randint(1, 3))
            for emotion in (1, 3, 4, 5, draw.randint(2, 8))
            for take in (1, 2)
        ]
        for seed, name in enumerate(dict.fromkeys(names)):
            folder = root / f"Actor_{name[-2:]}"
            folder.mkdir(exist_ok=True)
            write_recording(folder / f"{name}.wav", seed)
            if draw.random() < 0.05:
                stray = folder / draw.choice(STRAYS).format(name)
                stray.parent.mkdir(exist_ok=True)
                shutil.copy(folder / f"{name}.wav", stray)
            if draw.random() < 0.02:
                (folder / f"{name}.wav").write_bytes(draw.choice(list(BAD.values())))
        skip = one_of(draw, "error", "skip")
        corpus = Ravdess("ravdess", 1, skip, str(root), "drop")
        found = load(corpus, tmp_path / "cache")
        if isinstance(found, CorpusData):
            there = [path for path in root.rglob("*") if path.suffix.lower() in AUDIO]
            report = completeness(corpus, corpus.listing(tmp_path / "cache"))
            strays = re.search(r"not read: (\d+) audio file", report)
            assert accounted(found) + int(strays[1] if strays else 0) == len(there), report
        outcomes["rejected" if isinstance(found, str) else "used"] += 1
    assert min(outcomes["used"], outcomes["rejected"]) > FOLDERS // 5, outcomes
