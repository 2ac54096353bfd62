"""RAVDESS: 24 North American actors, two sentences, in English.

References
----------
Livingstone and Russo, "The Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS)",
PLOS ONE 13(5), 2018. https://doi.org/10.1371/journal.pone.0196391
"""

import re
from dataclasses import dataclass
from pathlib import Path

from client.corpora import layout, records, table
from client.corpora.base import Recordings, Utterance
from client.errors import UserError

# modality 03 (audio only) - channel 01 (speech) - emotion - intensity - sentence - take - actor
_NAME = re.compile(r"03-01-(0[1-8])-(0[12])-(\d\d)-(\d\d)-(\d\d)")
_EMOTIONS = {"01": "neutral", "03": "happiness", "04": "sadness", "05": "anger"}
_CALM = {"drop": None, "neutral": "neutral"}


@dataclass(frozen=True)
class Ravdess(Recordings):
    """The audio-only speech of RAVDESS; the fields are the keys of ``conf/corpus``.

    Attributes
    ----------
    root : str
        Folder that holds ``Actor_01`` to ``Actor_24``, or all files flat, or ``utterances.csv``.
    calm : str
        ``drop`` the emotion calm, or count it as ``neutral``.
    """

    root: str
    calm: str

    def read(self, cache: Path) -> list[Utterance]:
        """List the recordings of the four emotions, sorted by path; `cache` is not used.

        Raises
        ------
        UserError
            If the folder has another layout, a file name is not RAVDESS's, or `calm` is unknown.
        """
        if self.calm not in _CALM:
            raise UserError(f"corpus.calm={self.calm}: must be {' or '.join(_CALM)}")
        root = Path(self.root)
        if (root / table.FILE).is_file():
            return records.from_table(
                table.read(root / table.FILE),
                emotions={"calm": _CALM[self.calm]},
                attributes={"language": "en"},
                skip_missing=self.on_bad_file == "skip",
            )
        files = layout.audio_files(self.name, root, "Actor_*/03-01-*.wav", "03-01-*.wav")
        emotions = _EMOTIONS | {"02": _CALM[self.calm]}
        return [record for file in files if (record := _parse(self.name, file, emotions))]


def _parse(corpus: str, file: Path, emotions: dict[str, str | None]) -> Utterance | None:
    match = _NAME.fullmatch(file.stem)
    if match is None:
        raise UserError(
            f"corpus {corpus}: {file} is not named as 03-01-05-02-01-01-12.wav is: "
            "restore the corpus's own name or move the file away"
        )
    code, intensity, sentence, take, actor = match.groups()
    emotion = emotions.get(code)
    if emotion is None:
        return None
    attributes = {
        "gender": "male" if int(actor) % 2 else "female",
        "language": "en",
        "sentence": sentence,
        "intensity": "strong" if intensity == "02" else "normal",
        "take": take,
    }
    return Utterance(file, actor, emotion, attributes)
