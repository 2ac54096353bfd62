"""What every corpus parser returns, and the checks made before a corpus is used."""

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
        Audio file, any format that libsndfile reads.
    speaker : str
        Identifier, unique within the corpus.
    emotion : str
        One of `EMOTIONS`.
    attributes : Mapping[str, str]
        What the metadata says of the speaker or the recording, such as
        ``gender`` (``female`` or ``male``), ``age`` (years), ``language`` or ``corpus``.
    """

    path: Path
    speaker: str
    emotion: str
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """What a corpus holds.

    Attributes
    ----------
    utterances : list of Utterance
        In a fixed order.
    left_out : Mapping[str, int]
        How many recordings are not used for which reason, such as another emotion.
    named : frozenset of Path
        All recordings that the corpus knows of, used or not.
    """

    utterances: list[Utterance]
    left_out: Mapping[str, int] = field(default_factory=dict)
    named: frozenset[Path] = frozenset()

    @classmethod
    def joined(cls, parts: Iterable["Listing"]) -> "Listing":
        """Put listings together, one after another."""
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
    """A folder of recordings in a published layout, or a table naming them.

    The fields of a parser are the keys of its file in ``conf/corpus``.

    Attributes
    ----------
    name : str
        How the corpus is called in results.
    shards : int
        Clients a speaker.
    on_bad_file : str
        ``error``, or ``skip`` to leave unreadable audio out.
    """

    name: str
    shards: int
    on_bad_file: str

    def listing(self, cache: Path) -> Listing:
        """List the recordings, with the corpus's name among their attributes.

        A table that has a column ``corpus`` of its own keeps it: it may pool several.

        Parameters
        ----------
        cache : Path
            Folder for whatever the corpus must make before it can be read.

        Raises
        ------
        UserError
            If the folder has another layout or a row is unusable, or one speaker goes by two names.
        """
        found, named = self.read(cache), {"corpus": self.name}
        refuse_variants(self.name, found.utterances)
        utterances = [
            replace(
                u,
                speaker=unicodedata.normalize("NFC", u.speaker),
                attributes={**named, **u.attributes},
            )
            for u in found.utterances
        ]
        return replace(found, utterances=utterances)

    @abstractmethod
    def read(self, cache: Path) -> Listing:
        """List what the folder or the table holds; parameters and errors as of `listing`."""


@dataclass(frozen=True)
class Recordings(Corpus):
    """A corpus of which some speakers can be chosen by name.

    Attributes
    ----------
    speakers : list of str or None
        Those to keep, None being all.
    """

    speakers: list[str] | None = field(default=None, kw_only=True)

    def listing(self, cache: Path) -> Listing:
        """List the recordings of the chosen speakers, as `Corpus.listing` does.

        Raises
        ------
        UserError
            Also if no speaker is chosen, or one that the corpus does not have.
        """
        found = super().listing(cache)
        if self.speakers is None:
            return found
        if not self.speakers:
            raise UserError(f"corpus {self.name}: corpus.speakers=[] keeps nobody; null keeps all")
        known = sorted({u.speaker for u in found.utterances})
        for speaker in self.speakers:
            if speaker not in known:
                nearest = get_close_matches(speaker, known, n=3, cutoff=0)
                raise UserError(
                    f"corpus {self.name}: there is no speaker {speaker} (the nearest of "
                    f"{len(known)}: {', '.join(nearest)}): correct corpus.speakers"
                )
        names = set(self.speakers)
        chosen = [u for u in found.utterances if u.speaker in names]
        return replace(found, utterances=chosen)


def refuse_variants(name: str, utterances: Sequence[Utterance]) -> None:
    """Refuse speakers who are one, as far as names tell: one person would be trained and tested.

    Raises
    ------
    UserError
        Naming both.
    """
    first = {u.speaker: u.path.name for u in reversed(utterances)}
    known = dict[str, str]()
    for speaker in sorted(first):
        other = known.setdefault(identity(speaker), speaker)
        if other != speaker:
            pair = [f"{s!r} (such as {first[s]})" for s in (other, speaker)]
            raise UserError(
                f"corpus {name}: speakers {' and '.join(pair)} differ only in how they are "
                "written: call one person the same everywhere"
            )


def shared_attributes(utterances: Sequence[Utterance]) -> dict[str, str]:
    """Return what the metadata says the same of all these utterances, sorted by key."""
    return dict(sorted(set.intersection(*(set(u.attributes.items()) for u in utterances))))


def speaker_attributes(utterances: Sequence[Utterance]) -> dict[str, dict[str, str]]:
    """Return what the metadata says the same of all utterances of each speaker."""
    own = defaultdict[str, list[Utterance]](list)
    for utterance in utterances:
        own[utterance.speaker].append(utterance)
    return {speaker: shared_attributes(spoken) for speaker, spoken in own.items()}


def check_speakers(name: str, utterances: Sequence[Utterance], minimum: int) -> None:
    """Refuse a corpus that cannot be trained on.

    Parameters
    ----------
    minimum : int
        Fewest utterances a speaker needs.

    Raises
    ------
    UserError
        If there is no utterance, or a speaker has fewer than `minimum`.
    """
    if not utterances:
        raise UserError(f"corpus {name}: no utterance of {', '.join(EMOTIONS)} was found")
    for speaker, count in sorted(Counter(u.speaker for u in utterances).items()):
        if count < minimum:
            raise UserError(
                f"corpus {name}: speaker {speaker} has {count} utterance(s), at least {minimum} "
                f"are needed (two a shard): lower corpus.shards or leave the speaker out"
            )
