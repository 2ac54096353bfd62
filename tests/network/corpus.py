"""Write synthetic speech in the folders of nodes."""

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path

from fedser.client.corpora.synthetic.corpus import Synthetic


def divide_speakers(folder: Path, shares: Sequence[int], utterances: int) -> None:
    """Make one folder per node, with the audio and the table of its speakers.

    `shares` are the numbers of speakers of the nodes. Beside the folders lie the table of all
    speakers, ``truth.csv``, and all audio.
    """
    corpus = Synthetic("mine", 1, "error", "en", sum(shares), utterances, 0)
    names = sorted({u.speaker for u in corpus.listing(folder / "cache").utterances})
    (table,) = (folder / "cache").rglob("utterances.csv")
    with table.open() as file:
        rows = list(csv.DictReader(file))
    for number, share in enumerate(shares, 1):
        held, names = names[:share], names[share:]
        own = folder / str(number)
        own.mkdir()
        with (own / "utterances.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ("file", "speaker", "emotion"), extrasaction="ignore")
            writer.writeheader()
            for row in rows:
                if row["speaker"] in held:
                    shutil.copy(table.parent / row["file"], own)
                    writer.writerow({**row, "file": Path(row["file"]).name})
    shutil.copy(table, folder / "truth.csv")
    shutil.copytree(table.parent / "audio", folder / "audio")
