"""Several corpora joined into one."""

from dataclasses import dataclass, replace
from pathlib import Path

from fedser.client.corpora.base import Corpus, Listing, SelectableCorpus
from fedser.common.errors import UserError


@dataclass(frozen=True)
class Pooled(SelectableCorpus):
    """The utterances of all parts; the fields are the keys of ``conf/corpus``.

    Speakers are named ``PART/SPEAKER``. `shards` and `on_bad_file` of the pool hold for all
    parts; the values of the parts are ignored.

    Attributes
    ----------
    parts : list of Corpus
        Corpora with different names.
    """

    parts: list[Corpus]

    def read(self, cache: Path) -> Listing:
        """List the recordings part by part; each part has its own attributes.

        Raises
        ------
        UserError
            If there are no parts, two parts have the same name, or a part cannot be read.
        """
        names = [part.name for part in self.parts]
        if not names:
            raise UserError(f"corpus {self.name}: it has no parts: set corpus.parts=[NAME,NAME]")
        if len(set(names)) < len(names):
            raise UserError(
                f"corpus {self.name}: two of the parts {', '.join(names)} have the same name: "
                "give one part another name, as in {corpus: NAME, name: OTHER}"
            )
        return Listing.joined(self._prefixed(part, cache) for part in self.parts)

    def _prefixed(self, part: Corpus, cache: Path) -> Listing:
        found = replace(part, on_bad_file=self.on_bad_file).listing(cache)
        named = [replace(u, speaker=f"{part.name}/{u.speaker}") for u in found.utterances]
        return replace(found, utterances=named)
