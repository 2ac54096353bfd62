"""From utterances to clients: folds, shards, train and validation parts, normalisation."""

import errno
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import save_file

from client.corpora.ages import with_age_groups
from client.corpora.base import EMOTIONS, Corpus, Utterance, check_speakers, speaker_attributes
from client.errors import UserError, brief, check_choice
from client.features import Extractor, extract
from client.frames import unpad
from client.seeds import numpy_stream

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
VALIDATION_SHARE = 0.2
COPIES = "copy of another recording"
"""Why a recording is left out whose samples are those of another one of its speaker."""
TINY = 1e-6
"""Standard deviation below which a feature counts as constant and is only centred."""


@dataclass(frozen=True)
class CorpusData:
    """A corpus with its features: n utterances, d features, each once or in up to T frames.

    Attributes
    ----------
    features : ndarray of float32, shape (n, d) or (n, T, d)
        Sequences are padded as `client.frames` says.
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


def speaker_folds(speakers: Sequence[str], count: int, seed: int) -> list[list[str]]:
    """Cut the speakers into disjoint test folds of equal size, give or take one.

    Raises
    ------
    UserError
        If there are fewer speakers than folds.
    """
    if len(speakers) < count:
        raise UserError(
            f"{len(speakers)} speaker(s) cannot fill {count} test folds: "
            f"at least {count} are needed"
        )
    order = numpy_stream(seed, "folds").permutation(sorted(speakers))
    return [sorted(part.tolist()) for part in np.array_split(order, count)]


@dataclass(frozen=True)
class Clients:
    """The data of a federation's clients: n utterances of N clients, d features.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Position of each utterance in its corpus.
    features : ndarray of float32, shape (n, d) or (n, T, d)
        Normalised.
    labels : ndarray of int64, shape (n,)
    client : ndarray of int64, shape (n,)
        Which client holds each utterance.
    validation : ndarray of bool, shape (n,)
        Whether it is held out for validation.
    corpora, speakers : list of str, length N
        Whose each client is.
    """

    rows: Ints
    features: Floats
    labels: Ints
    client: Ints
    validation: npt.NDArray[np.bool_]
    corpora: list[str]
    speakers: list[str]

    def __len__(self) -> int:
        """Return N."""
        return len(self.speakers)

    @property
    def dimension(self) -> int:
        """Number of features d."""
        return int(self.features.shape[-1])

    def fingerprint(self) -> bytes:
        """Return what tells this data from any other."""
        digest = hashlib.sha256()
        for array in (self.features, self.labels, self.client, self.validation):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.digest()

    def units(self, unit: str) -> list[str]:
        """Name whom each client's data protects, length N: ``client`` or ``speaker``."""
        return name_units(self.corpora, self.speakers, unit)

    def sizes(self) -> Ints:
        """Return each client's number of training utterances, shape (N,)."""
        return np.bincount(self.client[~self.validation], minlength=len(self))

    def validation_set(self) -> tuple[Floats, Ints]:
        """Return the held-out utterances of all clients."""
        return self.features[self.validation], self.labels[self.validation]

    def save_training(self, path: Path) -> None:
        """Write what the training workers read: `Dataset.load` gives it back."""
        order = np.flatnonzero(~self.validation)
        order = order[np.argsort(self.client[order], kind="stable")]
        bounds = np.concatenate([[0], np.cumsum(self.sizes())])
        tensors: dict[str, npt.NDArray[np.generic]] = {
            "features": self.features[order],
            "labels": self.labels[order],
            "bounds": bounds,
        }
        try:
            save_file(tensors, path)
        except SafetensorError as error:
            raise OSError(errno.EIO, brief(error), str(path)) from error


def name_units(corpora: Sequence[str], speakers: Sequence[str], unit: str) -> list[str]:
    """Name the unit of each of N clients: ``CORPUS/SPEAKER``, or with ``/SHARD`` for a client.

    The names do not depend on who else takes part, so that one ledger holds several federations.
    """
    names = [f"{c}/{s}" for c, s in zip(corpora, speakers, strict=True)]
    if unit == "speaker":
        return names
    shards = Counter[str]()
    for place, name in enumerate(names):
        names[place] = f"{name}/{shards[name]}"
        shards[name] += 1
    return names


def make_clients(
    data: CorpusData, speakers: Sequence[str], seed: int, normalisation: str
) -> Clients:
    """Cut each speaker into shards, one a client, and hold out a fifth of each for validation.

    Feature statistics come from the training utterances alone, over all their frames: with
    ``speaker`` normalisation those of the speaker, over all shards, with ``corpus`` those of all
    these speakers together; ``none`` leaves features as they are.
    """
    rows, owner, held_out = [], [], []
    names: list[str] = []
    by_speaker = _by_speaker(data, np.arange(len(data.utterances)))
    for speaker in sorted(speakers):
        rng = numpy_stream(seed, "shards", data.name, speaker)
        for part in np.array_split(rng.permutation(by_speaker[speaker]), data.shards):
            rows.append(part)
            held_out.append(np.arange(len(part)) < _held_out(len(part)))
            owner.append(np.full(len(part), len(names)))
            names.append(speaker)
    index, validation = np.concatenate(rows), np.concatenate(held_out)
    return Clients(
        rows=index,
        features=_normalise(data, index, index[~validation], normalisation),
        labels=data.labels[index],
        client=np.concatenate(owner),
        validation=validation,
        corpora=[data.name] * len(names),
        speakers=names,
    )


def training_sizes(utterances: int, shards: int) -> list[int]:
    """Return how many of a speaker's utterances each of their clients trains on."""
    least, over = divmod(utterances, shards)
    parts = [least + 1] * over + [least] * (shards - over)
    return [part - _held_out(part) for part in parts]


def join_clients(parts: Sequence[Clients]) -> Clients:
    """Put the clients of several corpora into one federation, numbered in order."""
    offsets = np.cumsum([0, *(len(p) for p in parts)])
    return Clients(
        rows=np.concatenate([p.rows for p in parts]),
        features=np.concatenate([p.features for p in parts]),
        labels=np.concatenate([p.labels for p in parts]),
        client=np.concatenate([p.client + o for p, o in zip(parts, offsets, strict=False)]),
        validation=np.concatenate([p.validation for p in parts]),
        corpora=[c for p in parts for c in p.corpora],
        speakers=[s for p in parts for s in p.speakers],
    )


def held_out_set(
    data: CorpusData, speakers: Sequence[str], private: Clients | None, normalisation: str
) -> tuple[Floats, Ints]:
    """Return the normalised utterances of speakers that no client holds.

    With per-speaker normalisation a test speaker's statistics are their own, which needs no
    label; with corpus-wide normalisation they are those of the private training data, which
    nothing else looks at.
    """
    by_speaker = _by_speaker(data, np.arange(len(data.utterances)))
    rows = np.concatenate([by_speaker[s] for s in sorted(speakers)])
    fit_on = rows
    if private is not None and normalisation == "corpus":
        fit_on = private.rows[~private.validation]
    return _normalise(data, rows, fit_on, normalisation), data.labels[rows]


def _held_out(utterances: int) -> int:
    return max(1, round(VALIDATION_SHARE * utterances))


def _normalise(data: CorpusData, rows: Ints, fit_on: Ints, normalisation: str) -> Floats:
    """Return the z-scores of `rows`, with statistics from the rows `fit_on`."""
    features = data.features[rows]
    if normalisation == "none":
        return features
    if normalisation == "corpus":
        return _z_scores(features, data.features[fit_on])
    places, fitted = _by_speaker(data, rows), _by_speaker(data, fit_on)
    for speaker, own in places.items():
        features[own] = _z_scores(features[own], data.features[fit_on[fitted[speaker]]])
    return features


def _by_speaker(data: CorpusData, rows: Ints) -> dict[str, list[int]]:
    """Return where in `rows` the utterances of each speaker are."""
    places = defaultdict[str, list[int]](list)
    for place, row in enumerate(rows.tolist()):
        places[data.utterances[row].speaker].append(place)
    return dict(places)


def _z_scores(features: Floats, fit_on: Floats) -> Floats:
    fit_on = unpad(fit_on)
    # In double precision: some functionals are of the order of 1e7 with a small spread.
    mean = fit_on.mean(axis=0, dtype=np.float64)
    std = fit_on.std(axis=0, dtype=np.float64)
    std = np.where(std < TINY * np.maximum(1, np.abs(mean)), 1.0, std)
    scores = features - mean
    scores /= std
    return np.asarray(scores, dtype=np.float32)
