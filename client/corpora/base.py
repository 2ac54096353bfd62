"""Utterances, listings and base classes of corpora, and the checks before a corpus is used."""

import unicodedata
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from fedser.client.corpora.names import identity
from fedser.common.errors import UserError

EMOTIONS = ("neutral", "happiness", "sadness", "anger")
"""The four classes of the task, in label order."""


@dataclass(frozen=True)
class Utterance:
    """One recording.

    Attributes
    ----------
    path : Path
        Audio file in any format that libsndfile reads.
    speaker : str
        Name of the speaker, unique within the corpus.
    emotion : str
        One of `EMOTIONS`.
    attributes : Mapping[str, str]
        Metadata of the speaker or the recording, such as ``gender`` (``female`` or ``male``),
        ``age`` (years), ``language`` or ``corpus``.
    """

    path: Path
    speaker: str
    emotion: str
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """Content of a corpus.

    Attributes
    ----------
    utterances : list of Utterance
        The utterances to use, in a fixed order.
    left_out : Mapping[str, int]
        Number of unused recordings for each reason, such as another emotion.
    named : frozenset of Path
        All recordings that the corpus names, used or not.
    """

    utterances: list[Utterance]
    left_out: Mapping[str, int] = field(default_factory=dict)
    named: frozenset[Path] = frozenset()

    @classmethod
    def joined(cls, parts: Iterable["Listing"]) -> "Listing":
        """Join listings in the given order."""
        utterances: list[Utterance] = []
        left_out: Counter[str] = Counter()
        named = set[Path]()
        for part in parts:
            utterances += part.utterances
            left_out.update(part.left_out)
            named |= part.named
        return cls(utterances, left_out, frozenset(named))


@dataclass(frozen=True)
class Corpus(ABC):
    """A folder of recordings in a published layout, or a table that names recordings.

    The fields of a parser are the keys of its file in ``conf/corpus``.

    Attributes
    ----------
    name : str
        Name of the corpus in results.
    shards : int
        Number of clients per speaker.
    on_bad_file : str
        ``error`` rejects unreadable audio, ``skip`` leaves it out.
    """

    name: str
    shards: int
    on_bad_file: str

    def listing(self, cache: Path) -> Listing:
        """List the recordings and add the attribute ``corpus``, the name of the corpus.

        A table may pool several corpora: its own column ``corpus`` is kept.

        Parameters
        ----------
        cache : Path
            Folder for files that the corpus must generate before it can be read.

        Raises
        ------
        UserError
            If the folder has another layout, a row is unusable, or two speaker names differ only
            in spelling.
        """
        found = self.read(cache)
        check_speaker_names(self.name, found.utterances)
        utterances = [
            replace(
                u,
                speaker=unicodedata.normalize("NFC", u.speaker),
                attributes={"corpus": self.name, **u.attributes},
            )
            for u in found.utterances
        ]
        return replace(found, utterances=utterances)

    @abstractmethod
    def read(self, cache: Path) -> Listing:
        """List the content of the folder or the table; parameters and errors as in `listing`."""


@dataclass(frozen=True)
class SelectableCorpus(Corpus):
    """A corpus whose speakers can be selected by name.

    Attributes
    ----------
    speakers : list of str or None
        Names of the speakers to keep; None keeps all.
    """

    speakers: list[str] | None = field(default=None, kw_only=True)

    def listing(self, cache: Path) -> Listing:
        """List the recordings of the selected speakers, as `Corpus.listing` does.

        Raises
        ------
        UserError
            Also if no speaker is selected, or if the corpus has no speaker of a selected name.
        """
        found = super().listing(cache)
        if self.speakers is None:
            return found
        if not self.speakers:
            raise UserError(
                f"corpus {self.name}: corpus.speakers=[] keeps no speaker: name at least one, "
                "or set corpus.speakers=null to keep all"
            )
        known = sorted({u.speaker for u in found.utterances})
        for speaker in self.speakers:
            if speaker not in known:
                nearest = get_close_matches(speaker, known, n=3, cutoff=0)
                raise UserError(
                    f"corpus {self.name}: no speaker has the name {speaker} (most similar of its "
                    f"{len(known)} names: {', '.join(nearest)}): correct corpus.speakers"
                )
        selected = set(self.speakers)
        return replace(found, utterances=[u for u in found.utterances if u.speaker in selected])


def check_speaker_names(name: str, utterances: Sequence[Utterance]) -> None:
    """Reject two speaker names that differ only in spelling.

    They probably name one person, who would then be in training and test data.

    Raises
    ------
    UserError
        The message names both speakers.
    """
    first_file = {u.speaker: u.path.name for u in reversed(utterances)}
    spellings = dict[str, str]()
    for speaker in sorted(first_file):
        other = spellings.setdefault(identity(speaker), speaker)
        if other != speaker:
            pair = [f"{s!r} (in {first_file[s]})" for s in (other, speaker)]
            raise UserError(
                f"corpus {name}: the speaker names {' and '.join(pair)} differ only in spelling: "
                "use one name per person"
            )


def shared_attributes(utterances: Sequence[Utterance]) -> dict[str, str]:
    """Return the attributes that are the same for all utterances, sorted by key."""
    return dict(sorted(set.intersection(*(set(u.attributes.items()) for u in utterances))))


def speaker_attributes(utterances: Sequence[Utterance]) -> dict[str, dict[str, str]]:
    """Return, for each speaker, the attributes that all utterances of the speaker share."""
    by_speaker = defaultdict[str, list[Utterance]](list)
    for utterance in utterances:
        by_speaker[utterance.speaker].append(utterance)
    return {speaker: shared_attributes(own) for speaker, own in by_speaker.items()}


def check_speakers(name: str, utterances: Sequence[Utterance], minimum: int) -> None:
    """Reject a corpus with too few utterances for training.

    Parameters
    ----------
    minimum : int
        Smallest number of utterances per speaker.

    Raises
    ------
    UserError
        If there is no utterance, or a speaker has fewer than `minimum`.
    """
    if not utterances:
        raise UserError(
            f"corpus {name}: found no utterance of {', '.join(EMOTIONS)}: check its emotion labels"
        )
    for speaker, count in sorted(Counter(u.speaker for u in utterances).items()):
        if count < minimum:
            raise UserError(
                f"corpus {name}: speaker {speaker} has {count} utterance(s) but needs at least "
                f"{minimum} (two per shard): lower corpus.shards or leave the speaker out"
            )
