"""Show what a corpus holds."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from rich.table import Table

from client.corpora.base import EMOTIONS, Utterance, shared_attributes

MAX_VALUES = 10
"""Of an attribute that is listed: more of them say little of a group."""


def table(corpus: str, utterances: Sequence[Utterance]) -> Table:
    """Count the utterances of every speaker and emotion, with totals beneath.

    The gender is shown when it is known of any speaker. The caption tells of every other attribute
    in which speakers differ, unless it takes too many values, how many speakers have which.
    """
    counts = Counter((u.speaker, u.emotion) for u in utterances)
    known = _speaker_attributes(utterances)
    genders = {s: attributes["gender"] for s, attributes in known.items() if "gender" in attributes}
    speakers = sorted(known)
    totals = [sum(counts[speaker, emotion] for speaker in speakers) for emotion in EMOTIONS]

    caption = "\n".join(_differences(list(known.values())))
    shown = Table(
        title=f"corpus {corpus}", caption=caption, caption_justify="left", show_footer=True
    )
    shown.add_column("speaker", no_wrap=True, footer=f"{len(speakers)} speakers")
    if genders:
        tally = Counter(genders.values())
        footer = ", ".join(f"{count} {gender}" for gender, count in sorted(tally.items()))
        shown.add_column("gender", footer=footer)
    for emotion, total in zip(EMOTIONS, totals, strict=True):
        shown.add_column(emotion, footer=str(total), justify="right")
    shown.add_column("total", footer=str(sum(totals)), justify="right")

    for speaker in speakers:
        row = [counts[speaker, emotion] for emotion in EMOTIONS]
        gender = [genders.get(speaker, "")] if genders else []
        shown.add_row(speaker, *gender, *map(str, row), str(sum(row)))
    return shown


def _speaker_attributes(utterances: Sequence[Utterance]) -> dict[str, dict[str, str]]:
    by_speaker = defaultdict(list)
    for utterance in utterances:
        by_speaker[utterance.speaker].append(utterance)
    return {speaker: shared_attributes(own) for speaker, own in by_speaker.items()}


def _differences(known: Sequence[Mapping[str, str]]) -> list[str]:
    """Write a line an attribute: its values with the number of speakers of each."""
    lines = []
    for name in sorted(set().union(*known) - {"gender"}):
        tally = Counter(attributes.get(name, "not known") for attributes in known)
        if 1 < len(tally) <= MAX_VALUES:
            shown = ", ".join(f"{value} ({count})" for value, count in sorted(tally.items()))
            lines.append(f"{name}: {shown}")
    return lines
