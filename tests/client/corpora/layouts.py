"""Small corpora in their published layouts, with synthesised speech for audio."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import audformat
import pandas as pd
import soundfile

from fedser.client.corpora.base import EMOTIONS
from fedser.client.corpora.synthetic.corpus import Synthetic, render_corpus

IEMOCAP_LABELS = ("neu", "hap", "sad", "ang", "exc", "fru", "xxx", "oth")
MSP_LABELS = "NHSAXO"
CREMA_D_ACTORS = {
    "1001": '51,"Male","Caucasian","Not Hispanic"',
    "1002": '21,"Female","African American","Not Hispanic"',
    "1076": '25,"Female","Unknown","Hispanic"',
}
CREMA_D_VOTES = (
    *(("IEO", "NEU", "N"), ("DFA", "HAP", "H"), ("TIE", "SAD", "S"), ("ITS", "ANG", "A")),
    *(("ITH", "SAD", "N:S"), ("IWW", "ANG", "A:D:N"), ("TAI", "FEA", "F"), ("MTI", "SAD", "S")),
    ("MTI", "DIS", "D"),
)


@dataclass(frozen=True)
class Speech:
    """An endless sequence of recordings."""

    recordings: Iterator[tuple[int, Path]]

    @classmethod
    def spoken(cls, folder: Path) -> "Speech":
        """Render two synthetic voices in every emotion."""
        render_corpus(Synthetic("speech", 1, "error", "en", 2, 8, 0), folder / "speech", 1)
        return cls(enumerate(cycle(sorted((folder / "speech" / "audio").iterdir()))))

    def write(self, file: Path) -> None:
        """Write the next recording; each one has another length, so none is a copy."""
        file.parent.mkdir(parents=True, exist_ok=True)
        number, source = next(self.recordings)
        samples, rate = soundfile.read(source)
        soundfile.write(file, samples[number:], rate)


def iemocap(root: Path, speech: Speech) -> None:
    """Write two sessions, each with one improvised and one scripted dialog."""
    for session in (1, 2):
        for dialog, labels in (("impro01", IEMOCAP_LABELS), ("script01_1", ("ang",))):
            name = f"Ses0{session}{'FM'[session - 1]}_{dialog}"
            lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
            for number, label in enumerate(labels):
                for gender in "FM":
                    turn = f"{name}_{gender}{number:03d}"
                    times, ratings = f"[{number}.2901 - {number}.8357]", "[2.5000, 2.5000, 3.0000]"
                    lines += [f"{times}\t{turn}\t{label}\t{ratings}", "C-E2:\tNeutral;\t()"]
                    folder = root / f"Session{session}" / "sentences" / "wav" / name
                    speech.write(folder / f"{turn}.wav")
            _write(root / f"Session{session}/dialog/EmoEvaluation/{name}.txt", lines)
            (root / f"Session{session}/dialog/EmoEvaluation/._{name}.txt").write_bytes(
                b"\0\x05\x16"
            )


def msp_improv(root: Path, speech: Speech) -> None:
    """Write two sessions with six turns per speaker and kind of recording."""
    lines = []
    for speaker in ("F01", "M01", "F02", "M02"):
        for kind in "PRST":
            for number, label in enumerate(MSP_LABELS, 1):
                scenario = f"S{number:02d}{'ANSH'[number % 4]}"
                name = f"IMPROV-{scenario}-{speaker}-{kind}-FM{number:02d}"
                dominance = "NaN" if label == "X" else "3.333333"
                lines += [
                    f"UTD-{name}.avi; {label}; A:2.166667; V:3.500000; D:{dominance} ; N:4.500000;",
                    "CMI03_aflorezr-p-2012_10; Neutral; Neutral; A:3.0; V:3.0; D:3.0; N:4.0;",
                    "",
                ]
                session = f"session{int(speaker[1:])}"
                speech.write(root / f"Audio/{session}/{scenario}/{kind}/MSP-{name}.wav")
    _write(root / "Evalution.txt", lines)


def crema_d(root: Path, speech: Speech) -> None:
    """Write nine recordings for each of three actors; one recording is silent."""
    rows = ['"","FileName","VoiceVote","FaceVote","MultiModalVote","MultiModalLevel"']
    for actor in CREMA_D_ACTORS:
        for sentence, intended, vote in CREMA_D_VOTES:
            name = f"{actor}_{sentence}_{intended}_XX"
            rows.append(f'"{len(rows)}","{name}","N","N","{vote}","64.78"')
            speech.write(root / "AudioWAV" / f"{name}.wav")
    soundfile.write(root / "AudioWAV" / "1076_MTI_SAD_XX.wav", [], 16_000)
    _write(root / "processedResults" / "summaryTable.csv", rows)
    speakers = [f"{actor},{cells}" for actor, cells in CREMA_D_ACTORS.items()]
    _write(root / "VideoDemographics.csv", ['"ActorID","Age","Sex","Race","Ethnicity"', *speakers])


def urdu(root: Path, speech: Speech) -> None:
    """Write three speakers: one has every emotion, one is only happy, one only sad."""
    names = ("SM3_F1_A051", "SM3_F2_A052", "SF1_F1_H01", "SF1_F10_H010", "SM3_F1_H053")
    for name in (*names, "SM3_F1_N021", "SM6_F1_S097", "SM6_F4_S0100", "SM3_F9_S0101"):
        folder = {"A": "Angry", "H": "Happy", "N": "Neutral", "S": "Sad"}[name.split("_")[2][0]]
        speech.write(root / folder / f"{name}.wav")


def ravdess(root: Path, speech: Speech) -> None:
    """Write two actors in every emotion."""
    for actor in ("01", "02"):
        for emotion in range(1, 9):
            speech.write(root / f"Actor_{actor}" / f"03-01-{emotion:02d}-01-02-01-{actor}.wav")


def emodb(root: Path, speech: Speech) -> None:
    """Write two actors in every emotion."""
    for speaker in ("03", "08"):
        for letter in "WLEAFTN":
            speech.write(root / "wav" / f"{speaker}a01{letter}b.wav")


def nemo(root: Path, speech: Speech) -> None:
    """Write two actors in every emotion."""
    rows = ["file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage"]
    for speaker in ("WR0\tmale\t23", "EB0\tfemale\t27"):
        for emotion in (*EMOTIONS, "fear", "surprised"):
            file = f"{speaker[:3]}_{emotion}_64.wav"
            rows.append(f"{file}\t{emotion}\tUcho słyszy.\tucho słyszy\t{speaker}")
            speech.write(root / "samples" / file)
    _write(root / "data.tsv", rows)


def database(root: Path, speech: Speech) -> None:
    """Write a database in audformat: two speakers, one further emotion, one missing label."""
    made = audformat.Database("made", languages=["deu"], license="CC0-1.0")
    made.schemes["emotion"] = audformat.Scheme(labels=["joy", "anger", "neutral", "boredom"])
    speakers = {"s1": {"gender": "female", "age": 31}, "s2": {"gender": "male", "language": "tur"}}
    made.schemes["speaker"] = audformat.Scheme(labels=speakers)
    labels = {
        "train": ["joy", "anger", "neutral", None],
        "test": ["anger", "boredom", "joy", "joy"],
    }
    files = {split: [f"audio/{split}-{n}.wav" for n in range(4)] for split in labels}
    for split, emotions in labels.items():
        made.splits[split] = audformat.Split(split)
        table = audformat.Table(audformat.filewise_index(files[split]), split_id=split)
        made[f"emotion.{split}"] = table
        table["emotion"] = audformat.Column(scheme_id="emotion")
        table["emotion"].set(emotions)
    every = [file for split in files.values() for file in split]
    made["files"] = audformat.Table(audformat.filewise_index(every))
    made["files"]["speaker"] = audformat.Column(scheme_id="speaker")
    made["files"]["speaker"].set(pd.Series(["s1", "s2"] * 4, index=made["files"].index))
    for file in every:
        speech.write(root / file)
    made.save(str(root))


def listed(name: str) -> Callable[[Path, Speech], None]:
    """Return a function that writes one recording and a table ``utterances.csv``."""

    def write(root: Path, speech: Speech) -> None:
        speech.write(root / "audio" / f"{name}.flac")
        row = f"audio/{name}.flac,01,anger"
        _write(root / "utterances.csv", ["file,speaker,emotion", row])

    return write


LAYOUTS: dict[str, Callable[[Path, Speech], None]] = {
    "iemocap": iemocap,
    "msp_improv": msp_improv,
    "crema_d": crema_d,
    "urdu": urdu,
    "ravdess": ravdess,
    "emodb": emodb,
    "nemo": nemo,
    "audformat": database,
    "ravdess listed": listed("03-01-05-01-01-01-01"),
    "emodb listed": listed("03a01Wa"),
    "nemo listed": listed("EB0_anger_10"),
}
"""Functions that write each layout; the first word of a key is the corpus."""


def _write(file: Path, lines: Iterable[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
