"""Load a corpus with its features."""

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
from fedser.client.speakers.public_model import PublicModel
from fedser.common.arrays import Floats, Ints
from fedser.common.errors import UserError, check_choice

COPIES = "copy of another recording"
"""Reason for leaving out a recording with the same samples as another one of its speaker."""


@dataclass(frozen=True)
class CorpusData:
    """A corpus with its features: n utterances, each with a vector (d,) or up to T frames (T, d).

    Attributes
    ----------
    features : ndarray of float32, shape (n, d) or (n, T, d)
        Frames are padded as in `client.features.frames`.
    digests : list of str
        SHA-256 of each recording's samples, all different.
    skipped : list of Path
        Unreadable recordings that were left out.
    left_out : Mapping[str, int]
        Number of recordings that are not used, by reason.
    public : PublicModel or None
        Projects the normalised features.
    """

    name: str
    shards: int
    utterances: list[Utterance]
    features: Floats
    digests: list[str]
    skipped: list[Path]
    left_out: Mapping[str, int] = field(default_factory=dict)
    public: PublicModel | None = None

    @property
    def labels(self) -> Ints:
        """Class of each utterance, an index into `EMOTIONS`, shape (n,)."""
        return np.array([EMOTIONS.index(u.emotion) for u in self.utterances])

    @property
    def speakers(self) -> list[str]:
        """All speakers, sorted."""
        return sorted({u.speaker for u in self.utterances})

    def summary(self) -> dict[str, Any]:
        """Return the entry of ``results.json``; its paths are relative, so they name no user."""
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
        """Return the attributes that all utterances of a speaker share."""
        return self._attributes[speaker]

    @cached_property
    def _attributes(self) -> dict[str, dict[str, str]]:
        return speaker_attributes(self.utterances)


def load_corpus(
    corpus: Corpus, extractor: Extractor, cache: Path, age_bounds: Sequence[int] = (30,)
) -> CorpusData:
    """List a corpus, extract its features and check that no speaker has too few utterances.

    Raises
    ------
    UserError
        As in `Corpus.listing`, `with_age_groups`, `extract` and `check_speakers`, or if one
        recording has two speakers or emotions.
    """
    if corpus.shards < 1:
        raise UserError(f"corpus.shards={corpus.shards}: must be at least 1")
    check_choice("corpus.on_bad_file", corpus.on_bad_file, ("error", "skip"))
    listing = corpus.listing(cache)
    utterances = with_age_groups(listing.utterances, age_bounds)
    check_speakers(corpus.name, utterances, minimum=2 * corpus.shards)
    skip_bad = corpus.on_bad_file == "skip"
    extracted = extract(extractor, [u.path for u in utterances], cache, skip_bad=skip_bad)
    kept = [utterances[i] for i in extracted.kept]
    rows = _distinct(corpus.name, kept, extracted.digests)
    kept, copies = [kept[row] for row in rows], len(kept) - len(rows)
    check_speakers(corpus.name, kept, minimum=2 * corpus.shards)
    return CorpusData(
        corpus.name,
        corpus.shards,
        kept,
        extracted.values[rows] if copies else extracted.values,
        [extracted.digests[row] for row in rows],
        extracted.skipped,
        {**listing.left_out, **({COPIES: copies} if copies else {})},
    )


def _distinct(name: str, utterances: Sequence[Utterance], digests: Sequence[str]) -> list[int]:
    """Return the rows whose recording is not a copy of an earlier one.

    A copy would count twice and could be in training and validation data. A copy with another
    speaker or emotion is rejected as a mistake in the corpus.
    """
    first = dict[str, int]()
    for row, digest in enumerate(digests):
        earlier, own = utterances[first.setdefault(digest, row)], utterances[row]
        for label in ("speaker", "emotion"):
            if (one := getattr(earlier, label)) != (other := getattr(own, label)):
                raise UserError(
                    f"corpus {name}: one recording has two {label}s: {earlier.path} ({one}) and "
                    f"{own.path} ({other}) have the same samples: remove one of them"
                )
    return list(first.values())
