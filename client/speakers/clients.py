"""From speakers to clients: folds, shards, training and validation parts."""

import errno
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import save_file

from fedser.client.speakers.corpus_data import CorpusData
from fedser.client.speakers.normalisation import _by_speaker, _normalise
from fedser.common.arrays import Floats, Ints
from fedser.common.errors import UserError, brief
from fedser.common.seeds import numpy_stream

VALIDATION_SHARE = 0.2


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
