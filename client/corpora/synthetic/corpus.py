"""Synthetic corpora, which need no download: eSpeak NG renders each one once into the cache."""

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

from fedser.client.corpora import table, utterances
from fedser.client.corpora.base import EMOTIONS, Corpus, Listing
from fedser.client.corpora.synthetic.espeak import Espeak
from fedser.client.corpora.synthetic.grammar import GRAMMARS
from fedser.client.corpora.synthetic.recording import SAMPLE_RATE, record
from fedser.client.corpora.synthetic.voices import draw_delivery, draw_voice
from fedser.common.cache import filling
from fedser.common.errors import UserError
from fedser.common.processes import side_by_side
from fedser.common.threads import cores

_FORMAT = 2  # increase it when the same parameters give other audio
_COLUMNS = ("file", "speaker", "gender", "emotion", "language", "sentence")


@dataclass(frozen=True)
class Synthetic(Corpus):
    """A balanced corpus of synthetic voices; the fields are the keys of ``conf/corpus``.

    Attributes
    ----------
    language : str
        ``en``, ``de`` or ``pl``.
    speakers : int
        Number of speakers; genders alternate, female first.
    utterances_per_speaker : int
        A multiple of four: each emotion has the same number.
    seed : int
        Determines all random draws.
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
            If a parameter has an invalid value.
        """
        self._check()
        folder = cache / "synthetic" / self._key()
        if not folder.exists():
            with filling(cache):
                render_corpus(self, folder, cores())
        return utterances.from_table(table.read(folder / table.FILE))

    def _check(self) -> None:
        if self.language not in GRAMMARS:
            raise UserError(
                f"corpus.language={self.language}: must be one of {', '.join(GRAMMARS)}"
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
        """Name of the cached folder: a digest of all parameters of the audio."""
        parameters = (
            _FORMAT,
            version("espeakng-loader"),
            self.language,
            self.speakers,
            self.utterances_per_speaker,
            self.seed,
        )
        return hashlib.sha256(json.dumps(parameters).encode()).hexdigest()[:16]


def render_corpus(corpus: Synthetic, folder: Path, processes: int) -> None:
    """Render a corpus into `folder`, which appears complete or not at all.

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
            if not folder.exists():  # otherwise another run has rendered the same corpus
                raise


def _render_speakers(corpus: Synthetic, folder: Path, processes: int) -> list[dict[str, str]]:
    tasks = (delayed(_render_speaker)(corpus, index) for index in range(corpus.speakers))
    results = side_by_side(tasks, min(processes, corpus.speakers))
    title, total = f"rendering {corpus.name}", corpus.speakers
    rows = []
    # Workers return audio: a worker that survives an interrupted run must not write files.
    for rendered in tqdm(results, title, total, unit="speaker", disable=None):
        for row, audio in rendered:
            (folder / row["file"]).write_bytes(audio)
            rows.append(row)
    return rows


def _render_speaker(corpus: Synthetic, index: int) -> list[tuple[dict[str, str], bytes]]:
    """Return the table row and the FLAC content of each utterance of one speaker."""
    rng = np.random.default_rng([corpus.seed, index, *corpus.language.encode()])
    voice = draw_voice(("female", "male")[index % 2], rng)
    rendered = []
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
            rendered.append((dict(zip(_COLUMNS, row, strict=True)), audio.getvalue()))
    return rendered
