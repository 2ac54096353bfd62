"""What a server at its vantage sees, streamed to disk: the seam between training and attack.

A transcript is a folder. ``meta.json`` says how the federation was run, which the server
knows. ``updates-00000.safetensors`` and so on hold releases: for k of them ``round`` (k,),
``client`` (k,), ``num_examples`` (k,) and each recorded layer stacked to (k, ...), together
with ``<layer>.scale`` (k,). ``globals-00000.safetensors`` and so on hold the global model at
the start of each round, and the one that the last round left as that of a round after it. No
speaker, label or attribute is in it: a client is a number.

In float16 each array of a release is divided by a power of two near its largest magnitude,
so that what is lost is mantissa alone: small updates do not drown in subnormal numbers.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from client.errors import UserError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

CHUNK_BYTES = 32 * 2**20


@dataclass
class TranscriptConfig:
    """What is recorded.

    Attributes
    ----------
    layers : str
        ``first``, ``second``, ``last``, ``all`` or names of layers such as ``dense.0``,
        separated by commas: weights and biases of each.
    dtype : str
        ``float16`` or ``float32``.
    """

    layers: str = "first"
    dtype: str = "float16"


@dataclass(frozen=True)
class TranscriptMeta:
    """What the server knows of a federation.

    Attributes
    ----------
    algorithm : str
        ``fedavg`` (an update is a weight difference) or ``fedsgd`` (a gradient).
    layers : list of str
        Parameters of updates recorded; of models all are.
    training : dict
        Local optimisation, which the server prescribes.
    """

    federation: str
    algorithm: str
    num_clients: int
    num_rounds: int
    layers: list[str]
    dtype: str
    training: dict[str, float]


@dataclass(frozen=True)
class Releases:
    """k updates as the server received them.

    Attributes
    ----------
    round, client, num_examples : ndarray of int64, shape (k,)
    arrays : mapping of str to ndarray of float32, shape (k, ...)
        Recorded parameters by name.
    """

    round: Ints
    client: Ints
    num_examples: Ints
    arrays: dict[str, Floats]

    def __len__(self) -> int:
        """Return k."""
        return len(self.round)


def choose_layers(layers: str, parameters: Sequence[str], key: str) -> list[str]:
    """Return the names of the parameters of the layers that `key` of the configuration names.

    Raises
    ------
    UserError
        If a layer is unknown.
    """
    known = list(dict.fromkeys(name.rsplit(".", 1)[0] for name in parameters))
    named = {"first": known[:1], "second": known[1:2], "last": known[-1:], "all": known}
    wanted = [x for part in layers.split(",") for x in named.get(part.strip(), [part.strip()])]
    for layer in wanted:
        if layer not in known:
            choices = ", ".join([*named, *known])
            raise UserError(f"{key}: {layer} is not one of {choices}")
    return [name for name in parameters if name.rsplit(".", 1)[0] in wanted]


class TranscriptWriter:
    """Appends releases and global models, writing a file whenever a chunk is full.

    Memory stays at one chunk whatever the number of rounds. Use as a context manager.

    Parameters
    ----------
    written : mapping of str to int
        What `flush` returned when the run that goes on was last saved; empty for a new one.
        Later files are removed.
    """

    def __init__(self, folder: Path, meta: TranscriptMeta, written: Mapping[str, int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._meta = meta
        self._updates = _Chunks(folder, "updates", written.get("updates", 0))
        self._globals = _Chunks(folder, "globals", written.get("globals", 0))
        (folder / "meta.json").write_text(json.dumps(asdict(meta), indent=2))

    def record(
        self, server_round: int, model: Mapping[str, Floats], received: Sequence[Releases]
    ) -> None:
        """Record the model that the round's clients start from, and their updates."""
        self.record_model(server_round, model)
        parts: list[dict[str, npt.NDArray[np.generic]]] = []
        for releases in received:
            rows: dict[str, npt.NDArray[np.generic]] = {
                "round": releases.round,
                "client": releases.client,
                "num_examples": releases.num_examples,
            }
            for name in self._meta.layers:
                rows[name], rows[f"{name}.scale"] = _pack(releases.arrays[name], self._meta.dtype)
            parts.append(rows)
        if parts:
            self._updates.add({n: np.concatenate([p[n] for p in parts]) for n in parts[0]})

    def record_model(self, server_round: int, model: Mapping[str, Floats]) -> None:
        """Record the model that a round starts from."""
        row = {name: array[None].astype(np.float32) for name, array in model.items()}
        self._globals.add({"round": np.array([server_round]), **row})

    def flush(self) -> dict[str, int]:
        """Write what is left, and return how many files of each kind there are."""
        return {"updates": self._updates.flush(), "globals": self._globals.flush()}

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is left."""
        self.flush()


class Transcript:
    """A transcript on disk.

    Raises
    ------
    UserError
        If the folder holds none, or a file of it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self.meta = TranscriptMeta(**json.loads((folder / "meta.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{folder}: no readable transcript; run fedser stage=train") from error

    def __iter__(self) -> Iterator[Releases]:
        """Yield the releases in order, a chunk at a time."""
        with self._open("updates") as files:
            for file in files:
                if not file.get_slice("round").get_shape()[0]:
                    continue  # empty cohorts alone, of which safetensors reads no slice
                yield self._releases([(file, slice(None))], self.meta.layers)

    def of_clients(
        self, parameters: Sequence[str], rows: Mapping[int, Ints] | None = None
    ) -> Iterator[Releases]:
        """Yield the releases of one client after another, in the order of rounds.

        One client's are in memory at a time.

        Parameters
        ----------
        parameters : sequence of str
            Those of the recorded parameters to read.
        rows : mapping of int to ndarray of int, optional
            Clients to read, and which of theirs; all by default.
        """
        with self._open("updates") as files:
            sent = [(file, file.get_tensor("client")) for file in files]
            for client in np.unique(np.concatenate([c for _, c in sent])) if sent else []:
                own = [(f, i) for f, who in sent for i in np.flatnonzero(who == client)]
                if rows is not None:
                    own = [own[row] for row in rows.get(int(client), ())]
                if own:
                    yield self._releases([(f, slice(i, i + 1)) for f, i in own], parameters)

    def global_models(self) -> Iterator[tuple[int, dict[str, Floats]]]:
        """Yield each round with the model its clients started from."""
        with self._open("globals") as files:
            for file in files:
                stored = {name: file.get_tensor(name) for name in list(file.keys())}
                for row, server_round in enumerate(stored.pop("round")):
                    yield int(server_round), {name: a[row] for name, a in stored.items()}

    @property
    def num_examples(self) -> Ints:
        """What each release said of its client's number of utterances, shape (k,)."""
        with self._open("updates") as files:
            found = [file.get_tensor("num_examples") for file in files]
        return np.concatenate([np.zeros(0, dtype=np.int64), *found])

    @property
    def num_models(self) -> int:
        """How many global models there are, one more than rounds that were run."""
        return len(self._model_rows)

    def models(self, rounds: Ints, parameters: Sequence[str]) -> dict[str, Floats]:
        """Return these parameters of the models that k rounds start from, shape (k, ...)."""
        with self._open("globals") as files:
            rows = [self._model_rows[server_round] for server_round in rounds.tolist()]
            return {
                name: np.concatenate([files[f].get_slice(name)[i : i + 1] for f, i in rows])
                for name in parameters
            }

    @cached_property
    def _model_rows(self) -> dict[int, tuple[int, int]]:
        """File and row of the model that a round starts from."""
        with self._open("globals") as files:
            rounds = [file.get_tensor("round").tolist() for file in files]
        return {r: (f, i) for f, stored in enumerate(rounds) for i, r in enumerate(stored)}

    def _releases(self, rows: Sequence[tuple[Any, slice]], parameters: Sequence[str]) -> Releases:
        """Read rows of files."""

        def read(name: str) -> npt.NDArray[np.generic]:
            return np.concatenate([file.get_slice(name)[part] for file, part in rows])

        rounds, client, sizes = (
            read(name).astype(np.int64) for name in ("round", "client", "num_examples")
        )
        arrays = {name: _unpack(read(name), read(f"{name}.scale")) for name in parameters}
        return Releases(rounds, client, sizes, arrays)

    @contextmanager
    def _open(self, kind: str) -> Iterator[list[Any]]:
        """Open all files of a kind, in order; nothing is read yet."""
        with ExitStack() as stack:
            files = []
            for path in sorted(self._folder.glob(f"{kind}-*.safetensors")):
                try:
                    files.append(stack.enter_context(safe_open(path, framework="numpy")))
                except SafetensorError as error:
                    raise UserError(
                        f"{path}: damaged transcript; run fedser stage=train"
                    ) from error
            yield files


class _Chunks:
    """Rows of named arrays, written in files of about `CHUNK_BYTES`."""

    def __init__(self, folder: Path, kind: str, written: int) -> None:
        self._folder, self._kind, self._written = folder, kind, written
        self._rows: list[dict[str, npt.NDArray[np.generic]]] = []
        for later in sorted(folder.glob(f"{kind}-*"))[written:]:
            later.unlink()

    def add(self, rows: dict[str, npt.NDArray[np.generic]]) -> None:
        self._rows.append(rows)
        if sum(a.nbytes for r in self._rows for a in r.values()) >= CHUNK_BYTES:
            self.flush()

    def flush(self) -> int:
        if self._rows:
            stacked = {n: np.concatenate([r[n] for r in self._rows]) for n in self._rows[0]}
            path = self._folder / f"{self._kind}-{self._written:05d}.safetensors"
            save_file(stacked, path.with_suffix(".part"))
            os.replace(path.with_suffix(".part"), path)
            self._rows, self._written = [], self._written + 1
        return self._written


def _pack(array: Floats, dtype: str) -> tuple[npt.NDArray[np.floating], Floats]:
    scale = np.ones(len(array), dtype=np.float32)
    if dtype == "float32":
        return array.astype(np.float32), scale
    largest = np.abs(array).max(axis=tuple(range(1, array.ndim)))
    scale = np.ldexp(scale, np.where(largest > 0, np.frexp(largest)[1], 0)).astype(np.float32)
    return (array / _per_row(scale, array)).astype(np.float16), scale


def _unpack(array: npt.NDArray[np.generic], scale: npt.NDArray[np.generic]) -> Floats:
    widened = array.astype(np.float32)
    return widened * _per_row(scale.astype(np.float32), widened)


def _per_row(scale: Floats, like: Floats) -> Floats:
    return scale.reshape(-1, *[1] * (like.ndim - 1))
