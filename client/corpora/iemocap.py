"""IEMOCAP: ten actors in five dyadic sessions, improvised and scripted, in English.

References
----------
Busso et al., "IEMOCAP: interactive emotional dyadic motion capture database", Language Resources
and Evaluation 42(4), 2008. https://doi.org/10.1007/s10579-008-9076-6
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fedser.client.corpora import table, utterances
from fedser.client.corpora.base import Listing
from fedser.client.corpora.published import Part, Published, Source
from fedser.common.errors import check_choice

# [start - end], turn, label, [valence, activation, dominance]. The name of a dialog consists of the
# session, the actor with motion capture, and the script or topic; a turn adds the speaker.
_LINE = re.compile(
    r"\[[\d.]+ - [\d.]+\]\t"
    r"(?P<dialog>(?P<session>Ses\d\d)[FM]_(?P<kind>impro|script)\w+)_(?P<turn>(?P<gender>[FM])\w+)\t"
    r"(?P<emotion>\w+)\t"
)
_DIALOG = re.compile(r"Ses\d\d[FM]_(impro|script)\w+")
_LABELS = {
    "ang": "anger",
    "hap": "happiness",
    "sad": "sadness",
    "neu": "neutral",
    "exc": "excitement",
    "fru": "frustration",
    "fea": "fear",
    "sur": "surprise",
    "dis": "disgust",
    "oth": "another emotion",
    "xxx": "no agreement",
}
_DIALOGS = {"impro": "improvised", "script": "scripted"}
_EXCITEMENT = {"happiness": "happiness", "drop": None}
_LEFT_OUT = (
    *("frustration", "fear", "surprise", "disgust", "another emotion", "no agreement"),
    *(f"{dialog} dialog" for dialog in _DIALOGS.values()),
)


@dataclass(frozen=True)
class Iemocap(Published):
    """The full release of IEMOCAP; the fields are the keys of ``conf/corpus``.

    Attributes
    ----------
    dialogs : str
        Turns to keep: ``improvised``, ``scripted`` or ``all``.
    excitement : str
        ``happiness`` counts excitement as happiness, ``drop`` leaves it out.
    """

    source: ClassVar[Source] = Source(
        title="IEMOCAP",
        licence="USC's release agreement, for research",
        address="https://sail.usc.edu/iemocap/iemocap_release.htm",
        recordings=10_039,
        speakers=10,
        parts=(
            Part("labels", ("Session*/dialog/EmoEvaluation/Ses*.txt",), 151),
            Part("turns", ("Session*/sentences/wav/Ses*/Ses*.wav",), 10_039),
        ),
    )

    dialogs: str
    excitement: str

    def read(self, cache: Path) -> Listing:
        """List the turns of the four emotions, session by session; `cache` is not used.

        Raises
        ------
        UserError
            If the folder has another layout, a label file is unusable or names a missing turn, or
            an option is unknown.
        """
        check_choice("corpus.dialogs", self.dialogs, (*_DIALOGS.values(), "all"))
        check_choice("corpus.excitement", self.excitement, _EXCITEMENT)
        labels, _ = self.files()
        self.read_names(labels, _DIALOG, "Ses01F_impro01.txt")  # rejects copies
        return Listing.joined(self._dialog(Path(self.root) / file) for file in labels)

    def _dialog(self, file: Path) -> Listing:
        lines = table.read_lines(file, "[", _LINE)
        return utterances.from_table(
            table.Table(file, [self._described(row) for row in lines.rows], lines.numbers),
            root=file.parents[2] / "sentences" / "wav",
            emotions={**dict.fromkeys(_LEFT_OUT), "excitement": _EXCITEMENT[self.excitement]},
            attributes={"language": "en"},
            skip_missing=self.on_bad_file == "skip",
            allow_outside=self.allow_outside,
        )

    def _described(self, row: table.Row) -> table.Row:
        """Return the row of a turn; the label of a dialog to leave out is the kind of dialog."""
        dialog, label = _DIALOGS[row["kind"]], row["emotion"]
        kept = self.dialogs in (dialog, "all")
        return {
            "file": f"{row['dialog']}/{row['dialog']}_{row['turn']}.wav",
            "speaker": row["session"] + row["gender"],
            "emotion": _LABELS.get(label, label) if kept else f"{dialog} dialog",
            "gender": row["gender"],
            "dialog": dialog,
        }
