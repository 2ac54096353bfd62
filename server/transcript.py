"""What a server at its vantage sees, streamed to disk: the seam between training and attack.

A transcript is a folder. ``meta.json`` says how the federation was run, which the server
knows. ``updates-00000.safetensors`` and so on hold releases: for k of them ``round`` (k,),
``client`` (k,), ``num_examples`` (k,) and each recorded layer stacked to (k, ...), together
with ``<layer>.scale`` (k,). ``globals-00000.safetensors`` and so on hold the global model at
the start of each round. No speaker, label or attribute is in it: a client is a number.

In float16 each array of a release is divided by a power of two near its largest magnitude,
so that what is lost is mantissa alone: small updates do not drown in subnormal numbers.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

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
        Parameters recorded.
    global_models : bool
        Whether the model of each round is recorded.
    training : dict
        Local optimisation, which the server prescribes.
    """

    federation: str
    algorithm: str
    num_clients: int
    num_rounds: int
    layers: list[str]
    dtype: str
    global_models: bool
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

    def record(self, server_round: int, model: Mapping[str, Floats], releases: Releases) -> None:
        """Record the model that the round's clients start from, and their updates."""
        if self._meta.global_models:
            row = {name: array[None].astype(np.float32) for name, array in model.items()}
            self._globals.add({"round": np.array([server_round]), **row})
        rows: dict[str, npt.NDArray[np.generic]] = {
            "round": releases.round,
            "client": releases.client,
            "num_examples": releases.num_examples,
        }
        for name in self._meta.layers:
            rows[name], rows[f"{name}.scale"] = _pack(releases.arrays[name], self._meta.dtype)
        self._updates.add(rows)

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
        for stored in self._read("updates"):
            arrays = {
                name: _unpack(stored[name], stored[f"{name}.scale"]) for name in self.meta.layers
            }
            rounds, client, sizes = (
                stored[name].astype(np.int64) for name in ("round", "client", "num_examples")
            )
            yield Releases(rounds, client, sizes, arrays)

    def global_models(self) -> Iterator[tuple[int, dict[str, Floats]]]:
        """Yield each round with the model its clients started from."""
        for stored in self._read("globals"):
            rounds = stored.pop("round")
            for row, server_round in enumerate(rounds):
                yield int(server_round), {name: array[row] for name, array in stored.items()}

    def _read(self, kind: str) -> Iterator[dict[str, npt.NDArray[np.generic]]]:
        for path in sorted(self._folder.glob(f"{kind}-*.safetensors")):
            try:
                with safe_open(path, framework="numpy") as file:
                    yield {name: file.get_tensor(name) for name in list(file.keys())}
            except SafetensorError as error:
                raise UserError(f"{path}: damaged transcript; run fedser stage=train") from error


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
