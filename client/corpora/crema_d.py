"""CREMA-D: 91 actors, twelve sentences, in English, labelled by votes of many raters.

References
----------
Cao et al., "CREMA-D: Crowd-sourced emotional multimodal actors dataset", IEEE Transactions on
Affective Computing 5(4), 2014. https://doi.org/10.1109/TAFFC.2014.2336244
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fedser.client.corpora import table, utterances
from fedser.client.corpora.base import Listing
from fedser.client.corpora.published import Part, Published, Source
from fedser.common.errors import UserError

_NAME = re.compile(
    r"(?P<speaker>\d{4})_(?P<sentence>[A-Z]{3})_(?P<intended>[A-Z]{3})_(?P<intensity>[A-Z]{2}|X)"
)
_VOTES = {
    "A": "anger",
    "D": "disgust",
    "F": "fear",
    "H": "happiness",
    "N": "neutral",
    "S": "sadness",
}
_SILENT = {"1076_MTI_SAD_XX": "1076_MTI_SAD_XX without sound"}  # stated by the authors
_TIE = "tied vote"
_LEFT_OUT = ("disgust", "fear", _TIE, *_SILENT.values())
_COLUMNS = {"file": "FileName", "speaker": "FileName", "emotion": "MultiModalVote"}
_ATTRIBUTES = {"age": "Age", "gender": "Sex", "race": "Race", "ethnicity": "Ethnicity"}


@dataclass(frozen=True)
class CremaD(Published):
    """CREMA-D with the emotion that most raters perceived from voice and face.

    The fields are the keys of ``conf/corpus``.
    """

    source: ClassVar[Source] = Source(
        title="CREMA-D",
        licence="ODbL 1.0",
        address="https://github.com/CheyneyComputerScience/CREMA-D",
        recordings=7_442,
        speakers=91,
        parts=(
            Part("speech", ("AudioWAV/*.wav",), 7_442),
            Part("votes", ("processedResults/summaryTable.csv",), 1),
            Part(
                "speakers", ("VideoDemographics.csv", "processedResults/VideoDemographics.csv"), 1
            ),
        ),
    )

    def read(self, cache: Path) -> Listing:
        """List the recordings of the four emotions, sorted by path; `cache` is not used.

        A recording with a tied vote is left out.

        Raises
        ------
        UserError
            If the folder has another layout, a row of its tables is unusable, or a recording in
            the table of votes is missing.
        """
        _, (votes,), (demographics,) = self.files()
        root = Path(self.root)
        speakers = _read_speakers(root / demographics)
        voted = table.read(root / votes, _COLUMNS)
        files = (Path(f"{row['file']}.wav") for row in voted.rows)
        named = self.read_names(files, _NAME, "1001_IEO_NEU_XX.wav")
        rows = []
        for vote, name in zip(voted.rows, named, strict=True):
            if name["speaker"] not in speakers:
                raise UserError(
                    f"{root / demographics}: no row for the speaker of {name['file']}: "
                    "restore the original table"
                )
            emotion = _SILENT.get(vote["file"]) or _label(vote["emotion"])
            rows.append({**name, "emotion": emotion, **speakers[name["speaker"]]})
        return utterances.from_table(
            table.Table(voted.file, rows, voted.numbers),
            root=root / "AudioWAV",
            emotions=dict.fromkeys(_LEFT_OUT),
            attributes={"language": "en"},
            skip_missing=self.on_bad_file == "skip",
            allow_outside=self.allow_outside,
        )


def _label(vote: str) -> str:
    """Return the emotion with most votes; a colon in `vote` joins emotions with equal votes."""
    return _TIE if ":" in vote else _VOTES.get(vote, vote)


def _read_speakers(file: Path) -> dict[str, table.Row]:
    """Read the attributes of every actor; the value ``Unknown`` counts as missing."""
    rows = table.read_rows(file).rows
    if missing := {"ActorID", *_ATTRIBUTES.values()} - rows[0].keys():
        raise UserError(
            f"{file}: no column {', '.join(sorted(missing))}: restore the original table"
        )
    return {
        row["ActorID"]: {
            key: "" if row[column] == "Unknown" else row[column]
            for key, column in _ATTRIBUTES.items()
        }
        for row in rows
    }
