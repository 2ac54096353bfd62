"""nEMO: nine actors, ninety sentences, in Polish.

References
----------
Christop, "nEMO: Dataset of Emotional Speech in Polish", LREC-COLING 2024.
https://github.com/amu-cai/nEMO
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fedser.client.corpora import table, utterances
from fedser.client.corpora.base import Listing
from fedser.client.corpora.published import Part, Published, Source

_TABLE = "data.tsv"
_COLUMNS = {"file": "file_id", "speaker": "speaker_id"}
_NAME = re.compile(r"[A-Z]{2}\d_[a-z]+_(?P<sentence>\d+)")
_IGNORED = {"fear": None, "surprised": None}


@dataclass(frozen=True)
class Nemo(Published):
    """The nEMO corpus; the fields are the keys of ``conf/corpus``."""

    source: ClassVar[Source] = Source(
        title="nEMO",
        licence="CC BY-NC-SA 4.0",
        address="https://github.com/amu-cai/nEMO",
        recordings=4_481,
        speakers=9,
        parts=(Part("table", (table.FILE, _TABLE)),),
    )

    def read(self, cache: Path) -> Listing:
        """List the recordings of the four emotions, sorted by path; `cache` is not used.

        Raises
        ------
        UserError
            If the folder has another layout, or a row of its table is unusable.
        """
        root, ((found,),) = Path(self.root), self.files()
        if published := found.name == _TABLE:
            listed = table.read(root / found, _COLUMNS)
        else:
            listed = table.read(root / found)
        files = (Path(row["file"]) for row in listed.rows)
        named = self.read_names(files, _NAME, "WR0_anger_64.wav")  # gives the sentence
        rows = [row | name for row, name in zip(listed.rows, named, strict=True)]
        return utterances.from_table(
            table.Table(listed.file, rows, listed.numbers),
            root=root / "samples" if published else root,
            emotions=_IGNORED,
            attributes={"language": "pl"},
            skip_missing=self.on_bad_file == "skip",
            allow_outside=self.allow_outside,
        )
