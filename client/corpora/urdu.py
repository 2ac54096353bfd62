"""URDU: 38 speakers of Pakistani talk shows, spontaneous speech, in Urdu.

References
----------
Latif et al., "Cross lingual speech emotion recognition: Urdu vs. Western languages", FIT 2018.
https://arxiv.org/abs/1812.10411
"""

import re
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import ClassVar

from fedser.client.corpora import table, utterances
from fedser.client.corpora.base import Listing
from fedser.client.corpora.published import Part, Published, Source

# speaker, number within the speaker, emotion (initial), number within the emotion
_NAME = re.compile(r"(?P<speaker>S(?P<gender>[FM])\d+)_F\d+_(?P<emotion>[AHNS])\d+")
_EMOTIONS = {"A": "angry", "H": "happy", "N": "neutral", "S": "sad"}


@dataclass(frozen=True)
class Urdu(Published):
    """The URDU corpus; the fields are the keys of ``conf/corpus``."""

    source: ClassVar[Source] = Source(
        title="URDU",
        licence="for research",
        address="https://github.com/siddiquelatif/URDU-Dataset",
        recordings=400,
        speakers=38,
        parts=tuple(
            Part(f"{emotion} speech", (f"{emotion.title()}/*.wav",), 100)
            for emotion in _EMOTIONS.values()
        ),
    )

    def read(self, cache: Path) -> Listing:
        """List the recordings, sorted by path; `cache` is not used.

        Raises
        ------
        UserError
            If the folder has another layout, or a file name does not follow URDU's pattern.
        """
        rows = self.read_names(chain(*self.files()), _NAME, "SM1_F1_A01.wav")
        labelled = [row | {"emotion": _EMOTIONS[row["emotion"]]} for row in rows]
        root = Path(self.root)
        return utterances.from_table(
            table.Table.below_header(root, labelled),
            root=root,
            attributes={"language": "ur"},
            skip_missing=self.on_bad_file == "skip",
            allow_outside=self.allow_outside,
        )
