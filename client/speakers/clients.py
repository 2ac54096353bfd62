"""Divide speakers into folds and clients, and clients into training and validation parts."""

import errno
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import save_file

from fedser.client.speakers.corpus_data import CorpusData
from fedser.client.speakers.normalisation import normalise, positions_by_speaker
from fedser.common.arrays import Floats, Ints
from fedser.common.errors import UserError, brief
from fedser.common.seeds import numpy_stream

VALIDATION_SHARE = 0.2
"""Share of the utterances of each client that is held out for validation."""


def speaker_folds(speakers: Sequence[str], count: int, seed: int) -> list[list[str]]:
    """Divide the speakers into disjoint test folds; fold sizes differ by at most one.

    Raises
    ------
    UserError
        If there are fewer speakers than folds.
    """
    if len(speakers) < count:
        raise UserError(
            f"{len(speakers)} speaker(s) are too few for {count} test folds: use a corpus with at "
            f"least {count} speakers"
        )
    order = numpy_stream(seed, "folds").permutation(sorted(speakers))
    return [sorted(part.tolist()) for part in np.array_split(order, count)]


@dataclass(frozen=True)
class Clients:
    """The data of the clients of a federation: n utterances of N clients, d features.

    Attributes
    ----------
    rows : ndarray of int64, shape (n,)
        Position of each utterance in its corpus.
    features : ndarray of float32, shape (n, d) or (n, T, d)
        Normalised features.
    labels : ndarray of int64, shape (n,)
        Class of each utterance, an index into `EMOTIONS`.
    client : ndarray of int64, shape (n,)
        Index of the client that holds each utterance.
    validation : ndarray of bool, shape (n,)
        Whether the utterance is held out for validation.
    corpora, speakers : list of str, length N
        Corpus and speaker of each client.
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
        """Return the number of features d."""
        return int(self.features.shape[-1])

    def fingerprint(self) -> bytes:
        """Return a digest of the data."""
        digest = hashlib.sha256()
        for array in (self.features, self.labels, self.client, self.validation):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.digest()

    def units(self, unit: str) -> list[str]:
        """Return the name of the privacy unit of each client, length N; see `name_units`."""
        return name_units(self.corpora, self.speakers, unit)

    def sizes(self) -> Ints:
        """Return the number of training utterances of each client, shape (N,)."""
        return np.bincount(self.client[~self.validation], minlength=len(self))

    def validation_set(self) -> tuple[Floats, Ints]:
        """Return features and labels of the validation utterances of all clients."""
        return self.features[self.validation], self.labels[self.validation]

    def save_training(self, path: Path) -> None:
        """Write the training utterances to a file that `Dataset.load` reads."""
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
    """Return the name of the privacy unit of each of N clients.

    The name is ``CORPUS/SPEAKER`` if `unit` is ``speaker``, otherwise ``CORPUS/SPEAKER/SHARD``.
    It does not depend on the other clients, so one ledger can hold several federations.
    """
    names = [f"{c}/{s}" for c, s in zip(corpora, speakers, strict=True)]
    if unit == "speaker":
        return names
    shards = Counter[str]()
    for position, name in enumerate(names):
        names[position] = f"{name}/{shards[name]}"
        shards[name] += 1
    return names


def make_clients(
    data: CorpusData, speakers: Sequence[str], seed: int, normalisation: str
) -> Clients:
    """Divide each speaker into shards, one per client, and hold out a fifth of each shard.

    The statistics of normalisation come from all frames of the training utterances only: with
    ``speaker`` from all shards of the speaker, with ``corpus`` from all given speakers.
    """
    rows, client, validation = [], [], []
    client_speakers: list[str] = []
    by_speaker = positions_by_speaker(data, np.arange(len(data.utterances)))
    for speaker in sorted(speakers):
        rng = numpy_stream(seed, "shards", data.name, speaker)
        for part in np.array_split(rng.permutation(by_speaker[speaker]), data.shards):
            rows.append(part)
            validation.append(np.arange(len(part)) < _validation_size(len(part)))
            client.append(np.full(len(part), len(client_speakers)))
            client_speakers.append(speaker)
    index, held_out = np.concatenate(rows), np.concatenate(validation)
    return Clients(
        rows=index,
        features=normalise(data, index, index[~held_out], normalisation),
        labels=data.labels[index],
        client=np.concatenate(client),
        validation=held_out,
        corpora=[data.name] * len(client_speakers),
        speakers=client_speakers,
    )


def whole_speakers(corpora: Sequence[CorpusData], seed: int, normalisation: str) -> Clients:
    """Return one client for each speaker of several corpora."""
    return join_clients(
        [make_clients(replace(d, shards=1), d.speakers, seed, normalisation) for d in corpora]
    )


def training_sizes(utterances: int, shards: int) -> list[int]:
    """Return the number of training utterances of each client of a speaker, length `shards`."""
    size, rest = divmod(utterances, shards)
    parts = [size + 1] * rest + [size] * (shards - rest)
    return [part - _validation_size(part) for part in parts]


def join_clients(parts: Sequence[Clients]) -> Clients:
    """Join the clients of several corpora into one federation, numbered in order."""
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
    """Return normalised features and labels of test speakers, who belong to no client.

    With ``speaker`` normalisation, the statistics of a test speaker come from the speaker's own
    utterances, which needs no labels. With ``corpus``, they come from the training utterances of
    `private`, or from the test speakers if `private` is None.
    """
    by_speaker = positions_by_speaker(data, np.arange(len(data.utterances)))
    rows = np.concatenate([by_speaker[s] for s in sorted(speakers)])
    fit_on = rows
    if private is not None and normalisation == "corpus":
        fit_on = private.rows[~private.validation]
    return normalise(data, rows, fit_on, normalisation), data.labels[rows]


def _validation_size(utterances: int) -> int:
    return max(1, round(VALIDATION_SHARE * utterances))
