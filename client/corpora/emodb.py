"""EmoDB, the Berlin database of emotional speech: ten actors, ten sentences, in German.

References
----------
Burkhardt et al., "A database of German emotional speech", Interspeech 2005.
http://emodb.bilderbar.info/docu
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fedser.client.corpora import table, utterances
from fedser.client.corpora.base import Listing
from fedser.client.corpora.published import Part, Published, Source

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
# speaker, sentence, emotion (the initial of its German name), version
_NAME = re.compile(
    rf"(?P<speaker>{'|'.join(_SPEAKERS)})(?P<sentence>[ab]\d\d)(?P<emotion>[WLEAFTN])[a-z]"
)
_EMOTIONS = {
    "W": "anger",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
}
_IGNORED = {"boredom": None, "disgust": None, "fear": None}


@dataclass(frozen=True)
class Emodb(Published):
    """The EmoDB corpus; the fields are the keys of ``conf/corpus``."""

    source: ClassVar[Source] = Source(
        title="EmoDB",
        licence="open to the public; CC0 1.0 in the edition of audEERING",
        address="http://emodb.bilderbar.info",
        recordings=535,
        speakers=10,
        parts=(Part("speech", (table.FILE, "wav/*.wav")),),
    )

    def read(self, cache: Path) -> Listing:
        """List the recordings of the four emotions, sorted by path; `cache` is not used.

        Raises
        ------
        UserError
            If the folder has another layout, or a file name does not follow EmoDB's pattern.
        """
        (speech,) = self.files()
        return utterances.from_table(
            self.read_listed(speech, _NAME, "03a01Fa.wav", _described),
            root=Path(self.root),
            emotions=_IGNORED,
            attributes={"language": "de"},
            skip_missing=self.on_bad_file == "skip",
            allow_outside=self.allow_outside,
        )


def _described(row: table.Row) -> table.Row:
    gender, age = _SPEAKERS[row["speaker"]]
    return row | {"emotion": _EMOTIONS[row["emotion"]], "gender": gender, "age": age}
