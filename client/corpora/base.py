"""What every corpus parser returns, and the checks made before a corpus is used."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from client.errors import UserError

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
        ``gender`` (``female`` or ``male``), ``age`` (years) or ``language``.
    """

    path: Path
    speaker: str
    emotion: str
    attributes: Mapping[str, str] = field(default_factory=dict)


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

    @abstractmethod
    def utterances(self, cache: Path) -> list[Utterance]:
        """List the recordings in a fixed order.

        Parameters
        ----------
        cache : Path
            Folder for whatever the corpus must make before it can be read.

        Raises
        ------
        UserError
            If the folder has another layout or a row is unusable.
        """


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
