"""Corpora that need no download: eSpeak NG speaks them, once, into the cache."""

import csv
import hashlib
import io
import json
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import soundfile
from joblib import delayed
from tqdm import tqdm

from fedser.client.corpora import table
from fedser.client.corpora import utterances as records
from fedser.client.corpora.base import EMOTIONS, Corpus, Listing
from fedser.client.corpora.synthetic.espeak import Espeak
from fedser.client.corpora.synthetic.grammar import GRAMMARS
from fedser.client.corpora.synthetic.recording import SAMPLE_RATE, record
from fedser.client.corpora.synthetic.voices import draw_delivery, draw_voice
from fedser.common.cache import filling
from fedser.common.errors import UserError
from fedser.common.processes import side_by_side
from fedser.common.threads import cores

_FORMAT = 2  # raise it whenever the same parameters would sound different
_COLUMNS = ("file", "speaker", "gender", "emotion", "language", "sentence")


@dataclass(frozen=True)
class Synthetic(Corpus):
    """A balanced corpus of synthetic voices; the fields are the keys of ``conf/corpus``.

    Attributes
    ----------
    language : str
        ``en``, ``de`` or ``pl``.
    speakers : int
        Female and male in turn, so half of each when even.
    utterances_per_speaker : int
        A multiple of four: the same number of each emotion.
    seed : int
        Everything that is drawn follows from it.
    """

    language: str
    speakers: int
    utterances_per_speaker: int
    seed: int

    def read(self, cache: Path) -> Listing:
        """Render the corpus unless `cache` holds it, and list its recordings.

        Raises
        ------
        UserError
            If a parameter is impossible.
        """
        self._check()
        folder = cache / "synthetic" / self._key()
        if not folder.exists():
            with filling(cache):
                render(self, folder, cores())
        return records.from_table(table.read(folder / table.FILE))

    def _check(self) -> None:
        if self.language not in GRAMMARS:
            raise UserError(
                f"corpus.language={self.language}: there are sentences in {', '.join(GRAMMARS)}"
            )
        for key, value, least in (("speakers", self.speakers, 1), ("seed", self.seed, 0)):
            if value < least:
                raise UserError(f"corpus.{key}={value}: must be at least {least}")
        if self.utterances_per_speaker < 1 or self.utterances_per_speaker % len(EMOTIONS):
            raise UserError(
                f"corpus.utterances_per_speaker={self.utterances_per_speaker}: must be a positive "
                f"multiple of {len(EMOTIONS)}, the number of emotions"
            )

    def _key(self) -> str:
        """Name of the cached folder: all that the audio depends on."""
        parameters = (
            _FORMAT,
            version("espeakng-loader"),
            self.language,
            self.speakers,
            self.utterances_per_speaker,
            self.seed,
        )
        return hashlib.sha256(json.dumps(parameters).encode()).hexdigest()[:16]


def render(corpus: Synthetic, folder: Path, processes: int) -> None:
    """Speak a corpus into `folder`, which appears complete or not at all.

    The audio is 16 kHz mono FLAC and does not depend on `processes`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".rendering-", dir=folder.parent) as temporary:
        unfinished = Path(temporary) / folder.name
        (unfinished / "audio").mkdir(parents=True)
        rows = _render_speakers(corpus, unfinished, processes)
        with (unfinished / table.FILE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, _COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.exists():  # else another run rendered the same corpus meanwhile
                raise


def _render_speakers(corpus: Synthetic, folder: Path, processes: int) -> list[dict[str, str]]:
    tasks = (delayed(_render_speaker)(corpus, index) for index in range(corpus.speakers))
    spoken = side_by_side(tasks, min(processes, corpus.speakers))
    title, total = f"rendering {corpus.name}", corpus.speakers
    rows = []
    # Workers return audio, not write it: one that outlives an interrupted run leaves nothing.
    for utterances in tqdm(spoken, title, total, unit="speaker", disable=None):
        for row, audio in utterances:
            (folder / row["file"]).write_bytes(audio)
            rows.append(row)
    return rows


def _render_speaker(corpus: Synthetic, index: int) -> list[tuple[dict[str, str], bytes]]:
    """Render one speaker's utterances and return their rows of the table, each with its FLAC."""
    rng = np.random.default_rng([corpus.seed, index, *corpus.language.encode()])
    voice = draw_voice(("female", "male")[index % 2], rng)
    utterances = []
    with Espeak() as espeak:
        for number in range(corpus.utterances_per_speaker):
            emotion = EMOTIONS[number % len(EMOTIONS)]
            delivery = draw_delivery(voice, emotion, rng)
            sentence = GRAMMARS[corpus.language].sentence(rng)
            samples = espeak.say(sentence, f"{corpus.language}+{voice.variant}", delivery.prosody)
            samples = record(samples, espeak.sample_rate, voice, delivery, rng)
            file = f"audio/s{index:03d}_{number:03d}_{emotion}.flac"
            audio = io.BytesIO()
            soundfile.write(audio, samples, SAMPLE_RATE, format="FLAC")
            row = (file, f"s{index:03d}", voice.gender, emotion, corpus.language, sentence)
            utterances.append((dict(zip(_COLUMNS, row, strict=True)), audio.getvalue()))
    return utterances
