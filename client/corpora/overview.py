"""Show what a corpus holds, and what is missing of one that was published."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from itertools import chain
from pathlib import Path

from rich.table import Table

from fedser.client.corpora.base import EMOTIONS, Corpus, Listing, Utterance, speaker_attributes
from fedser.client.corpora.manifest import Manifest
from fedser.client.corpora.pooled import Pooled
from fedser.client.corpora.published import DOCS, Part, Published
from fedser.common.console import plain

MAX_VALUES = 10
"""Of an attribute that is listed: more of them say little of a group."""

AUDIO = {
    *(".wav", ".flac", ".mp3", ".ogg", ".opus", ".aif", ".aiff", ".au", ".caf", ".w64", ".m4a"),
    *(".aac", ".wma", ".sph", ".nist", ".raw"),
}
"""Suffixes of recordings, in lower case."""


def in_folders(corpus: Corpus) -> list[Published | Manifest]:
    """List the corpora in folders that a corpus is made of: itself, or the parts of a pool."""
    if isinstance(corpus, Pooled):
        parts = (replace(part, on_bad_file=corpus.on_bad_file) for part in corpus.parts)
        return [found for part in parts for found in in_folders(part)]
    return [corpus] if isinstance(corpus, Published | Manifest) else []


def published(corpus: Corpus) -> list[Published]:
    """List those of them that are published."""
    return [found for found in in_folders(corpus) if isinstance(found, Published)]


def completeness(corpus: Published | Manifest, listing: Listing) -> str:
    """Tell what is missing of a published corpus, and which recordings it does not know of.

    Returns
    -------
    str
        Lines of any length; nothing where nothing is to be told.
    """
    lines = []
    if isinstance(corpus, Published):
        source, speakers = corpus.source, len({u.speaker for u in listing.utterances})
        chosen = source.speakers if corpus.speakers is None else None
        for what, found, whole in (
            ("recordings", len(listing.named), source.recordings),
            ("speakers", speakers, chosen),
        ):
            if whole is not None and found < whole:
                lines.append(f"{what}: {found} of {whole}, {whole - found} missing")
            elif whole is not None and found > whole:
                lines.append(f"{what}: {found}, {found - whole} more than were published")
    if others := _others(corpus, listing.named):
        lines.append(f"not read: {len(others)} file(s) that the corpus does not name as its own")
        lines[-1] += f", such as {others[0]}"
    return "".join(f"{line}\n" for line in lines)


def _others(corpus: Published | Manifest, named: Set[Path]) -> list[Path]:
    """List the audio files that lie among a corpus's and are not of it, sorted."""
    if isinstance(corpus, Published):
        files: Iterable[Path] = Path(corpus.root).rglob("*")
    else:  # its folder may hold anything else besides
        files = chain.from_iterable(folder.glob("*") for folder in {file.parent for file in named})
    known = {Path(os.path.normpath(file)) for file in named}
    found = (Path(os.path.normpath(file)) for file in files if file.suffix.lower() in AUDIO)
    return sorted(file for file in found if file not in known and file.is_file())


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
    known = speaker_attributes(utterances)
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
