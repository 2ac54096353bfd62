"""Several corpora as one: a federation that mixes them."""

from dataclasses import dataclass, replace
from pathlib import Path

from fedser.client.corpora.base import Corpus, Listing, Recordings
from fedser.common.errors import UserError


@dataclass(frozen=True)
class Pooled(Recordings):
    """The utterances of all parts; the fields are the keys of ``conf/corpus``.

    Speakers are named ``PART/SPEAKER``. How many clients a speaker is and what becomes of bad
    files is said once, for the whole pool; what the parts say of it does not count.

    Attributes
    ----------
    parts : list of Corpus
        Of different names.
    """

    parts: list[Corpus]

    def read(self, cache: Path) -> Listing:
        """List the recordings part by part; what one part does not know of a speaker is missing.

        Raises
        ------
        UserError
            If there are no parts, two have one name, or one of them cannot be read.
        """
        names = [part.name for part in self.parts]
        if not names:
            raise UserError(f"corpus {self.name}: no parts: set corpus.parts=[NAME, NAME]")
        if len(set(names)) < len(names):
            raise UserError(
                f"corpus {self.name}: the parts {', '.join(names)} are not distinct; "
                "set another name: on one"
            )
        return Listing.joined(self._prefixed(part, cache) for part in self.parts)

    def _prefixed(self, part: Corpus, cache: Path) -> Listing:
        found = replace(part, on_bad_file=self.on_bad_file).listing(cache)
        named = [replace(u, speaker=f"{part.name}/{u.speaker}") for u in found.utterances]
        return replace(found, utterances=named)
