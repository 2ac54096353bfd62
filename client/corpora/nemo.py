"""nEMO: nine actors, ninety sentences, in Polish.

References
----------
Christop, "nEMO: Dataset of Emotional Speech in Polish", LREC-COLING 2024.
https://github.com/amu-cai/nEMO
"""

from dataclasses import dataclass
from pathlib import Path

from client.corpora import layout, records, table
from client.corpora.base import Recordings, Utterance

_TABLE = "data.tsv"
_COLUMNS = {"file": "file_id", "speaker": "speaker_id"}
_IGNORED = {"fear": None, "surprised": None}


@dataclass(frozen=True)
class Nemo(Recordings):
    """The nEMO corpus; the fields are the keys of ``conf/corpus``.

    Attributes
    ----------
    root : str
        Folder that holds ``data.tsv`` and ``samples``, or ``utterances.csv``.
    """

    root: str

    def read(self, cache: Path) -> list[Utterance]:
        """List the recordings of the four emotions, sorted by path; `cache` is not used.

        Raises
        ------
        UserError
            If the folder has another layout, or a row of its table is unusable.
        """
        root = Path(self.root)
        if (root / table.FILE).is_file():
            listed, audio = table.read(root / table.FILE), root
        elif (root / _TABLE).is_file():
            listed, audio = _read_published(root / _TABLE), root / "samples"
        else:
            raise layout.unknown(self.name, root, _TABLE)
        return records.from_table(
            listed,
            root=audio,
            emotions=_IGNORED,
            attributes={"language": "pl"},
            skip_missing=self.on_bad_file == "skip",
        )


def _read_published(file: Path) -> table.Table:
    """Read ``data.tsv``; only the file name tells the sentence's number: ``WR0_anger_64.wav``."""
    listed = table.read(file, _COLUMNS, delimiter="\t")
    rows = [row | {"sentence": Path(row["file"]).stem.rpartition("_")[2]} for row in listed.rows]
    return table.Table(file, rows)
