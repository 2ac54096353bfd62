"""A corpus with its features."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fedser.client.corpora.ages import with_age_groups
from fedser.client.corpora.base import (
    EMOTIONS,
    Corpus,
    Utterance,
    check_speakers,
    speaker_attributes,
)
from fedser.client.features.base import Extractor
from fedser.client.features.extract import extract
from fedser.common.arrays import Floats, Ints
from fedser.common.errors import UserError, check_choice

COPIES = "copy of another recording"
"""Why a recording is left out whose samples are those of another one of its speaker."""


@dataclass(frozen=True)
class CorpusData:
    """A corpus with its features: n utterances, d features, each once or in up to T frames.

    Attributes
    ----------
    features : ndarray of float32, shape (n, d) or (n, T, d)
        Sequences are padded as `client.features.frames` says.
    digests : list of str
        SHA-256 of each recording's samples: no two are the same.
    skipped : list of Path
        Recordings left out because they were unreadable.
    left_out : Mapping[str, int]
        How many recordings the corpus does not use, by reason.
    """

    name: str
    shards: int
    utterances: list[Utterance]
    features: Floats
    digests: list[str]
    skipped: list[Path]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def labels(self) -> Ints:
        """Class of each utterance, an index into `EMOTIONS`."""
        return np.array([EMOTIONS.index(u.emotion) for u in self.utterances])

    @property
    def speakers(self) -> list[str]:
        """All speakers, sorted."""
        return sorted({u.speaker for u in self.utterances})

    def summary(self) -> dict[str, Any]:
        """What ``results.json`` says of it; folders above the corpus may name a user, and go."""
        folders = {path.parent for path in (*self.skipped, *(u.path for u in self.utterances))}
        root = os.path.commonpath(folders)
        return {
            "name": self.name,
            "utterances": len(self.utterances),
            "skipped": [os.path.relpath(path, root) for path in self.skipped],
            "left_out": dict(sorted(self.left_out.items())),
            "emotions": dict(sorted(Counter(u.emotion for u in self.utterances).items())),
        }

    def attributes(self, speaker: str) -> dict[str, str]:
        """What the metadata says the same of all of a speaker's utterances."""
        return self._attributes[speaker]

    @cached_property
    def _attributes(self) -> dict[str, dict[str, str]]:
        return speaker_attributes(self.utterances)


def load_corpus(
    corpus: Corpus, extractor: Extractor, cache: Path, age_bounds: Sequence[int] = (30,)
) -> CorpusData:
    """List a corpus, extract its features and check that every speaker fills their shards.

    Raises
    ------
    UserError
        As `Corpus.listing`, `with_age_groups`, `extract` and `check_speakers` do, and if one
        recording is under two speakers or emotions.
    """
    if corpus.shards < 1:
        raise UserError(f"corpus.shards={corpus.shards}: a speaker needs at least 1 shard")
    check_choice("corpus.on_bad_file", corpus.on_bad_file, ("error", "skip"))
    listing = corpus.listing(cache)
    utterances = with_age_groups(listing.utterances, age_bounds)
    check_speakers(corpus.name, utterances, minimum=2 * corpus.shards)
    skip_bad = corpus.on_bad_file == "skip"
    found = extract(extractor, [u.path for u in utterances], cache, skip_bad=skip_bad)
    kept = [utterances[i] for i in found.kept]
    rows = _distinct(corpus.name, kept, found.digests)
    kept, copies = [kept[row] for row in rows], len(kept) - len(rows)
    check_speakers(corpus.name, kept, minimum=2 * corpus.shards)
    return CorpusData(
        corpus.name,
        corpus.shards,
        kept,
        found.values[rows] if copies else found.values,
        [found.digests[row] for row in rows],
        found.skipped,
        {**listing.left_out, **({COPIES: copies} if copies else {})},
    )


def _distinct(name: str, utterances: Sequence[Utterance], digests: Sequence[str]) -> list[int]:
    """Return the rows that are no copy of an earlier one.

    A copy of the same speaker is left out: it would weigh twice, and could be trained and
    validated at once. One of another speaker, or with another emotion, is a mistake.
    """
    first = dict[str, int]()
    for row, digest in enumerate(digests):
        earlier, own = utterances[first.setdefault(digest, row)], utterances[row]
        for what in ("speaker", "emotion"):
            if (one := getattr(earlier, what)) != (other := getattr(own, what)):
                raise UserError(
                    f"corpus {name}: one recording has two {what}s: {earlier.path} ({one}) and "
                    f"{own.path} ({other}) have the same samples: leave one of them out"
                )
    return list(first.values())
