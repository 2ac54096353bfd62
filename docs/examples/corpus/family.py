"""Recordings named ``talks/anna_f_joy_01.wav``."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fedser.client.corpora import table, utterances
from fedser.client.corpora.base import Listing
from fedser.client.corpora.published import Part, Published, Source

NAME = re.compile(r"(?P<speaker>[a-z]+)_(?P<gender>[fm])_(?P<emotion>[a-z]+)_\d+")


@dataclass(frozen=True)
class Family(Published):
    """Talks of a family: the files' names say everything."""

    source: ClassVar[Source] = Source(
        title="Family talks",
        licence="CC BY 4.0",
        address="https://example.org/family",
        parts=(Part("speech", ("talks/*.wav",)),),  # what its folder must hold
    )

    def read(self, cache: Path) -> Listing:
        """List the recordings."""
        (speech,) = self.files()  # one list a part; refuses any other folder
        rows = self.read_names(speech, NAME, "anna_f_joy_01.wav")
        return utterances.from_table(
            table.Table.below_header(Path(self.root), rows),
            root=Path(self.root),
            emotions={"fear": None},  # left out, and counted
            attributes={"language": "en"},
            skip_missing=self.on_bad_file == "skip",
        )
