"""MSP-IMPROV: twelve actors in six dyadic sessions, twenty target sentences, in English.

References
----------
Busso et al., "MSP-IMPROV: An acted corpus of dyadic interactions to study emotion perception",
IEEE Transactions on Affective Computing 8(1), 2017. https://doi.org/10.1109/TAFFC.2016.2515617
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fedser.client.corpora import table, utterances
from fedser.client.corpora.base import Listing
from fedser.client.corpora.published import Part, Published, Source

# sentence and target emotion, speaker, kind of recording, turn; label by plurality vote
_LINE = re.compile(
    r"UTD-(?P<name>IMPROV-(?P<scenario>S\d\d[AHNS])-(?P<speaker>(?P<gender>[FM])0(?P<session>\d))"
    r"-(?P<kind>[PRST])-\w+)\.avi;\s*(?P<emotion>\w+);"
)
_LABELS = {
    "N": "neutral",
    "H": "happiness",
    "S": "sadness",
    "A": "anger",
    "O": "another emotion",
    "X": "no agreement",
}
_KINDS = {"P": "natural interaction", "R": "read sentence"}
_LEFT_OUT = ("another emotion", "no agreement", *_KINDS.values())


@dataclass(frozen=True)
class MspImprov(Published):
    """The improvised turns of MSP-IMPROV; the fields are the keys of ``conf/corpus``."""

    source: ClassVar[Source] = Source(
        title="MSP-IMPROV",
        licence="UT Dallas's agreement, for academic research",
        address="https://ecs.utdallas.edu/research/researchlabs/msp-lab/MSP-Improv.html",
        recordings=8_438,
        speakers=12,
        parts=(
            Part("labels", ("Evalution.txt", "Evaluation.txt"), 1),
            Part(
                "turns",
                (
                    "Audio/session*/S*/*/MSP-IMPROV-*.wav",
                    "session*/S*/*/MSP-IMPROV-*.wav",
                ),
                8_438,
            ),
        ),
    )

    def read(self, cache: Path) -> Listing:
        """List the improvised turns of the four emotions, sorted by path; `cache` is not used.

        Natural interaction between improvisations (P) and read sentences (R) are left out.

        Raises
        ------
        UserError
            If the folder has another layout, or its label file is unusable or names a missing
            turn.
        """
        (labels,), (turn, *_) = self.files()
        lines = table.read_lines(Path(self.root) / labels, "UTD-", _LINE)
        return utterances.from_table(
            table.Table(lines.file, [_described(row) for row in lines.rows], lines.numbers),
            root=(Path(self.root) / turn).parents[3],
            emotions=dict.fromkeys(_LEFT_OUT),
            attributes={"language": "en"},
            skip_missing=self.on_bad_file == "skip",
            allow_outside=self.allow_outside,
        )


def _described(row: table.Row) -> table.Row:
    """Return the row of a turn; the label of a kind to leave out is the kind itself."""
    kind, label = row["kind"], row["emotion"]
    folder = f"session{row['session']}/{row['scenario']}/{kind}"
    return {
        "file": f"{folder}/MSP-{row['name']}.wav",
        "speaker": row["speaker"],
        "emotion": _KINDS.get(kind) or _LABELS.get(label, label),
        "gender": row["gender"],
        "sentence": row["scenario"][1:3],
    }
