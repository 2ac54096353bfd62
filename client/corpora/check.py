"""Show what a corpus holds, and what is missing of one that was published."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from client.corpora.base import EMOTIONS, Corpus, Utterance, shared_attributes
from client.corpora.pooled import Pooled
from client.corpora.published import DOCS, Part, Published
from client.terminal import plain

MAX_VALUES = 10
"""Of an attribute that is listed: more of them say little of a group."""


def published(corpus: Corpus) -> list[Published]:
    """List the published corpora that a corpus is made of: itself, the parts of a pool, or none."""
    if isinstance(corpus, Pooled):
        return [found for part in corpus.parts for found in published(part)]
    return [corpus] if isinstance(corpus, Published) else []


def parts(corpus: Published) -> Table:
    """Tell which parts of a corpus its folder holds, and how many files of each."""
    shown = Table(title=plain(f"corpus {corpus.name}: {corpus.source.title}"))
    for heading in ("part", "looked for", "found"):
        shown.add_column(heading, overflow="fold")
    for part in corpus.source.parts:
        shown.add_row(*map(plain, (part.name, part, _found(part, Path(corpus.root)))))
    return shown


def origin(corpus: Published) -> str:
    """Say where the corpus was looked for and how to come by it, in lines of any length."""
    source = corpus.source
    return (
        f"folder: {corpus.root}\nlicence: {source.licence}\nfrom: {source.address}\nsee: {DOCS}\n"
    )


def absence(corpus: Published) -> str | None:
    """Say in one line which parts of a corpus are missing and how to come by it, or nothing."""
    source, root = corpus.source, Path(corpus.root)
    lacking = [part.name for part in source.parts if not part.find(root)]
    if not lacking:
        return None
    return (
        f"corpus {corpus.name}: no {', '.join(lacking)} in {root}: to be had at {source.address} "
        f"({source.licence}), {DOCS} tells how its folder looks"
    )


def _found(part: Part, root: Path) -> str:
    count = len(part.find(root))
    of_all = f" of {part.complete}" if part.complete else ""
    return f"{count}{of_all}" if count else "missing"


def table(
    corpus: str, utterances: Sequence[Utterance], left_out: Mapping[str, int] | None = None
) -> Table:
    """Count the utterances of every speaker and emotion, with totals beneath.

    The gender is shown when it is known of any speaker. The caption tells of every other attribute
    in which speakers differ, unless it takes too many values, how many speakers have which; and
    how many recordings are left out for which reason.
    """
    counts = Counter((u.speaker, u.emotion) for u in utterances)
    known = _speaker_attributes(utterances)
    genders = {s: attributes["gender"] for s, attributes in known.items() if "gender" in attributes}
    speakers = sorted(known)
    totals = [sum(counts[speaker, emotion] for speaker in speakers) for emotion in EMOTIONS]

    caption = _differences(list(known.values()))
    if left_out:
        caption.append(f"left out: {_tallied(left_out)}")
    shown = Table(
        title=plain(f"corpus {corpus}"),
        caption=plain("\n".join(caption)),
        caption_justify="left",
        show_footer=True,
    )
    shown.add_column("speaker", no_wrap=True, footer=f"{len(speakers)} speakers")
    if genders:
        tally = Counter(genders.values())
        footer = ", ".join(f"{count} {gender}" for gender, count in sorted(tally.items()))
        shown.add_column("gender", footer=plain(footer))
    for emotion, total in zip(EMOTIONS, totals, strict=True):
        shown.add_column(emotion, footer=str(total), justify="right")
    shown.add_column("total", footer=str(sum(totals)), justify="right")

    for speaker in speakers:
        row = [counts[speaker, emotion] for emotion in EMOTIONS]
        gender = [genders.get(speaker, "")] if genders else []
        shown.add_row(*map(plain, (speaker, *gender, *row, sum(row))))
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
            lines.append(f"{name}: {_tallied(tally)}")
    return lines


def _tallied(tally: Mapping[str, int]) -> str:
    return ", ".join(f"{value} ({count})" for value, count in sorted(tally.items()))
