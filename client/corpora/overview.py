"""Show the content of a corpus, and the missing parts of a published corpus."""

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

MAX_LISTED_VALUES = 10
"""Attributes with more values than this are not listed: the groups would be too small."""

AUDIO = {
    *(".wav", ".flac", ".mp3", ".ogg", ".opus", ".aif", ".aiff", ".au", ".caf", ".w64", ".m4a"),
    *(".aac", ".wma", ".sph", ".nist", ".raw"),
}
"""Suffixes of audio files, in lower case."""


def corpora_on_disk(corpus: Corpus) -> list[Published | Manifest]:
    """Return the corpora that lie in folders: the corpus itself, or the parts of a pool."""
    if isinstance(corpus, Pooled):
        parts = (replace(part, on_bad_file=corpus.on_bad_file) for part in corpus.parts)
        return [found for part in parts for found in corpora_on_disk(part)]
    return [corpus] if isinstance(corpus, Published | Manifest) else []


def published_corpora(corpus: Corpus) -> list[Published]:
    """Return the published corpora among `corpora_on_disk`."""
    return [found for found in corpora_on_disk(corpus) if isinstance(found, Published)]


def completeness(corpus: Published | Manifest, listing: Listing) -> str:
    """Report missing recordings and speakers of a corpus, and audio files that it does not name.

    Returns
    -------
    str
        Lines of any length; empty if the corpus is complete.
    """
    lines = []
    if isinstance(corpus, Published):
        source, speakers = corpus.source, len({u.speaker for u in listing.utterances})
        all_speakers = source.speakers if corpus.speakers is None else None
        for kind, found, expected in (
            ("recordings", len(listing.named), source.recordings),
            ("speakers", speakers, all_speakers),
        ):
            if expected is not None and found < expected:
                lines.append(f"{kind}: {found} of {expected}, {expected - found} missing")
            elif expected is not None and found > expected:
                lines.append(f"{kind}: {found}, {found - expected} more than were published")
    if unlisted := _unlisted_audio(corpus, listing.named):
        lines.append(
            f"not read: {len(unlisted)} audio file(s) that the corpus does not list, "
            f"such as {unlisted[0]}"
        )
    return "".join(f"{line}\n" for line in lines)


def _unlisted_audio(corpus: Published | Manifest, named: Set[Path]) -> list[Path]:
    """Return the audio files in the folders of a corpus that it does not list, sorted."""
    if isinstance(corpus, Published):
        files: Iterable[Path] = Path(corpus.root).rglob("*")
    else:  # a manifest's folder may contain unrelated subfolders
        files = chain.from_iterable(folder.glob("*") for folder in {file.parent for file in named})
    listed = {Path(os.path.normpath(file)) for file in named}
    audio = (Path(os.path.normpath(file)) for file in files if file.suffix.lower() in AUDIO)
    return sorted(file for file in audio if file not in listed and file.is_file())


def parts_table(corpus: Published) -> Table:
    """Return a table with the number of files found of each part of a corpus."""
    shown = Table(title=plain(f"corpus {corpus.name}: {corpus.source.title}"))
    for heading in ("part", "looked for", "found"):
        shown.add_column(heading, overflow="fold")
    for part in corpus.source.parts:
        shown.add_row(*map(plain, (part.name, part, _found_count(part, Path(corpus.root)))))
    return shown


def origin(corpus: Published) -> str:
    """Return the folder of a corpus, its licence and its source, in lines of any length."""
    source = corpus.source
    return (
        f"folder: {corpus.root}\nlicence: {source.licence}\nfrom: {source.address}\nsee: {DOCS}\n"
    )


def missing_parts(corpus: Published) -> str | None:
    """Return one line with the missing parts of a corpus and its source; None if it is complete."""
    source, root = corpus.source, Path(corpus.root)
    missing = [part.name for part in source.parts if not part.find(root)]
    if not missing:
        return None
    return (
        f"corpus {corpus.name}: {root} contains no {', '.join(missing)}: get the corpus from "
        f"{source.address} ({source.licence}); {DOCS} describes its folder"
    )


def _found_count(part: Part, root: Path) -> str:
    count = len(part.find(root))
    of_all = f" of {part.complete}" if part.complete else ""
    return f"{count}{of_all}" if count else "missing"


def counts_table(
    corpus: str, utterances: Sequence[Utterance], left_out: Mapping[str, int] | None = None
) -> Table:
    """Return a table with the number of utterances per speaker and emotion, and totals.

    A column shows the gender if it is known for any speaker. The caption gives, for every other
    attribute with 2 to `MAX_LISTED_VALUES` values, the number of speakers per value, and then
    the number of recordings left out per reason.
    """
    counts = Counter((u.speaker, u.emotion) for u in utterances)
    attributes = speaker_attributes(utterances)
    genders = {s: known["gender"] for s, known in attributes.items() if "gender" in known}
    speakers = sorted(attributes)
    totals = [sum(counts[speaker, emotion] for speaker in speakers) for emotion in EMOTIONS]

    caption = _differences(list(attributes.values()))
    if left_out:
        caption.append(f"left out: {_with_counts(left_out)}")
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


def _differences(speakers: Sequence[Mapping[str, str]]) -> list[str]:
    """Return one line per attribute: its values with the number of speakers of each."""
    lines = []
    for name in sorted(set().union(*speakers) - {"gender"}):
        tally = Counter(attributes.get(name, "not known") for attributes in speakers)
        if 1 < len(tally) <= MAX_LISTED_VALUES:
            lines.append(f"{name}: {_with_counts(tally)}")
    return lines


def _with_counts(tally: Mapping[str, int]) -> str:
    return ", ".join(f"{value} ({count})" for value, count in sorted(tally.items()))
