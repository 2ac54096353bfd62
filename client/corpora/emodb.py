"""EmoDB, the Berlin database of emotional speech: ten actors, ten sentences, in German.

References
----------
Burkhardt et al., "A database of German emotional speech", Interspeech 2005.
http://emodb.bilderbar.info/docu
"""

import re
from dataclasses import dataclass
from pathlib import Path

from client.corpora import layout, records, table
from client.corpora.base import Recordings, Utterance
from client.errors import UserError

# speaker, sentence, emotion (the initial of its German name), version
_NAME = re.compile(r"(\d\d)([ab]\d\d)([WLEAFTN])([a-z])")
_EMOTIONS = {"W": "anger", "F": "happiness", "T": "sadness", "N": "neutral"}
_SPEAKERS = {
    "03": ("male", "31"),
    "08": ("female", "34"),
    "09": ("female", "21"),
    "10": ("male", "32"),
    "11": ("male", "26"),
    "12": ("male", "30"),
    "13": ("female", "32"),
    "14": ("female", "35"),
    "15": ("male", "25"),
    "16": ("female", "31"),
}


@dataclass(frozen=True)
class Emodb(Recordings):
    """The EmoDB corpus; the fields are the keys of ``conf/corpus``.

    Attributes
    ----------
    root : str
        Folder that holds the folder ``wav``, or ``utterances.csv``.
    """

    root: str

    def read(self, cache: Path) -> list[Utterance]:
        """List the recordings of the four emotions, sorted by path; `cache` is not used.

        Raises
        ------
        UserError
            If the folder has another layout, or a file name is not EmoDB's.
        """
        root = Path(self.root)
        if (root / table.FILE).is_file():
            return records.from_table(
                table.read(root / table.FILE),
                attributes={"language": "de"},
                skip_missing=self.on_bad_file == "skip",
            )
        files = layout.audio_files(self.name, root, "wav/*.wav")
        return [record for file in files if (record := _parse(self.name, file))]


def _parse(corpus: str, file: Path) -> Utterance | None:
    match = _NAME.fullmatch(file.stem)
    if match is None or match[1] not in _SPEAKERS:
        raise UserError(
            f"corpus {corpus}: {file} is not named as 03a01Fa.wav is, by one of the speakers "
            f"{', '.join(_SPEAKERS)}: restore the corpus's own name or move the file away"
        )
    speaker, sentence, letter, _ = match.groups()
    if letter not in _EMOTIONS:
        return None
    gender, age = _SPEAKERS[speaker]
    attributes = {"gender": gender, "age": age, "language": "de", "sentence": sentence}
    return Utterance(file, speaker, _EMOTIONS[letter], attributes)
