"""RAVDESS: 24 North American actors, two sentences, in English.

References
----------
Livingstone and Russo, "The Ryerson Audio-Visual Database of Emotional Speech and Song (RAVDESS)",
PLOS ONE 13(5), 2018. https://doi.org/10.1371/journal.pone.0196391
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fedser.client.corpora import table, utterances
from fedser.client.corpora.base import Listing
from fedser.client.corpora.published import Part, Published, Source
from fedser.common.errors import UserError

# modality 03 (audio only) - channel 01 (speech) - emotion - intensity - sentence - take - actor
_NAME = re.compile(
    r"03-01-(?P<emotion>0[1-8])-(?P<intensity>0[12])-(?P<sentence>\d\d)-(?P<take>\d\d)-"
    r"(?P<speaker>\d\d)"
)
_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
_IGNORED = {"fearful": None, "disgust": None, "surprised": None}
_CALM = {"drop": None, "neutral": "neutral"}


@dataclass(frozen=True)
class Ravdess(Published):
    """The audio-only speech of RAVDESS; the fields are the keys of ``conf/corpus``.

    Attributes
    ----------
    calm : str
        ``drop`` leaves calm utterances out, ``neutral`` counts them as neutral.
    """

    source: ClassVar[Source] = Source(
        title="RAVDESS",
        licence="CC BY-NC-SA 4.0",
        address="https://zenodo.org/records/1188976",
        recordings=1_440,
        speakers=24,
        parts=(Part("speech", (table.FILE, "Actor_*/03-01-*.wav", "03-01-*.wav")),),
    )

    calm: str

    def read(self, cache: Path) -> Listing:
        """List the recordings of the four emotions, sorted by path; `cache` is not used.

        Raises
        ------
        UserError
            If the folder has another layout, a file name does not follow RAVDESS's pattern, or
            `calm` is unknown.
        """
        if self.calm not in _CALM:
            raise UserError(f"corpus.calm={self.calm}: must be {' or '.join(_CALM)}")
        (speech,) = self.files()
        return utterances.from_table(
            self.read_listed(speech, _NAME, "03-01-05-02-01-01-12.wav", _described),
            root=Path(self.root),
            emotions={**_IGNORED, "calm": _CALM[self.calm]},
            attributes={"language": "en"},
            skip_missing=self.on_bad_file == "skip",
            allow_outside=self.allow_outside,
        )


def _described(row: table.Row) -> table.Row:
    return row | {
        "emotion": _EMOTIONS[int(row["emotion"]) - 1],
        "gender": "male" if int(row["speaker"]) % 2 else "female",
        "intensity": "strong" if row["intensity"] == "02" else "normal",
    }
