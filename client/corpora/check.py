"""Show what a corpus holds."""

from collections import Counter
from collections.abc import Sequence

from rich.table import Table

from client.corpora.base import EMOTIONS, Utterance


def table(corpus: str, utterances: Sequence[Utterance]) -> Table:
    """Count the utterances of every speaker and emotion, with totals beneath.

    The gender is shown when it is known of any speaker.
    """
    counts = Counter((u.speaker, u.emotion) for u in utterances)
    genders = {u.speaker: u.attributes["gender"] for u in utterances if "gender" in u.attributes}
    speakers = sorted({u.speaker for u in utterances})
    totals = [sum(counts[speaker, emotion] for speaker in speakers) for emotion in EMOTIONS]

    shown = Table(title=f"corpus {corpus}", show_footer=True)
    shown.add_column("speaker", footer=f"{len(speakers)} speakers")
    if genders:
        tally = Counter(genders.values())
        footer = ", ".join(f"{count} {gender}" for gender, count in sorted(tally.items()))
        shown.add_column("gender", footer=footer)
    for emotion, total in zip(EMOTIONS, totals, strict=True):
        shown.add_column(emotion, footer=str(total), justify="right")
    shown.add_column("total", footer=str(sum(totals)), justify="right")

    for speaker in speakers:
        row = [counts[speaker, emotion] for emotion in EMOTIONS]
        known = [genders.get(speaker, "")] if genders else []
        shown.add_row(speaker, *known, *map(str, row), str(sum(row)))
    return shown
