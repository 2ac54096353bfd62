"""Read the transcript of a federation: all that the server sees, on disk.

Training writes the transcript and attacks read it, so attacks can run again without training. A
transcript is a folder. ``meta.json`` says how the federation was run, which the server knows.
``updates-00000.safetensors`` and so on hold the clients' updates: for k updates ``round`` (k,),
``client`` (k,), ``num_examples`` (k,) and each recorded layer stacked to (k, ...), with
``<layer>.scale`` (k,). ``globals-00000.safetensors`` and so on hold the global model at the start
of each round, and the last model as the start of one more round. The transcript holds no speaker,
label or attribute: a client is a number.

If a `Reader` reads each update during training, the transcript holds its few numbers (k, p) in
place of layers, and no model.

In float16 each array of an update is divided by a power of two near its norm. So only bits of the
mantissa are lost, and small updates do not become subnormal numbers.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from fedser.common.arrays import Floats, Ints
from fedser.common.errors import UserError, brief
from fedser.common.files import read_json, schema_problem
from fedser.server.transcript.packing import unpack

CHUNK_BYTES = 32 * 2**20
"""Approximate size of a file, and of a part that is read at a time."""
COLUMNS, MAX_COUNT = ("round", "client", "num_examples"), 2**31
_COUNT, _ABOVE_0 = {"type": "integer", "minimum": 1}, {"type": "number", "exclusiveMinimum": 0}
_TRAINING = {
    **{"epochs": _COUNT, "batch_size": _COUNT, "learning_rate": _ABOVE_0},
    **dict.fromkeys(("weight_decay", "beta1", "beta2"), {"type": "number", "minimum": 0}),
    **{"adam_epsilon": _ABOVE_0, "engine": {"type": "string"}},
}
_META = {
    "federation": {"type": "string", "maxLength": 200},
    "algorithm": {"enum": ["fedavg", "fedsgd"]},
    "num_clients": _COUNT,
    "num_rounds": _COUNT,
    "layers": {"type": "array", "items": {"type": "string"}},
    "dtype": {"enum": ["float16", "float32"]},
    "numbers": {"type": "object", "additionalProperties": {"type": "string"}},
    "training": {"type": "object", "properties": _TRAINING, "additionalProperties": False},
}
SCHEMA = {"type": "object", "properties": _META, "additionalProperties": False}
"""JSON schema of ``meta.json``: the file may come from somebody else."""


@dataclass(frozen=True)
class TranscriptMeta:
    """The server's description of a federation.

    Attributes
    ----------
    algorithm : str
        ``fedavg`` (an update is a weight difference) or ``fedsgd`` (a gradient).
    layers : list of str
        Parameters that are recorded of updates; models are recorded with all parameters.
    training : dict
        Settings of local training, which the server sets.
    numbers : dict of str to str
        Numbers of a `Reader`, recorded in place of layers: their names, each with a hash of all
        that determines its numbers.
    """

    federation: str
    algorithm: str
    num_clients: int
    num_rounds: int
    layers: list[str]
    dtype: str
    training: dict[str, float]
    numbers: dict[str, str] = field(default_factory=dict)

    @property
    def recorded(self) -> list[str]:
        """Names of the layers, or of the numbers, that are recorded of each update."""
        return [*self.layers, *self.numbers]


@dataclass(frozen=True)
class RecordedUpdates:
    """k updates as the server received them.

    Attributes
    ----------
    round, client, num_examples : ndarray of int64, shape (k,)
    arrays : mapping of str to ndarray of float32, shape (k, ...)
        Recorded parameters, or numbers, by name.
    """

    round: Ints
    client: Ints
    num_examples: Ints
    arrays: dict[str, Floats]

    def __len__(self) -> int:
        """Return k."""
        return len(self.round)


class Reader(Protocol):
    """Reads updates during training, in a thread of its federation; no update is kept."""

    @property
    def numbers(self) -> dict[str, str]:
        """Names of its numbers, as in `TranscriptMeta`."""
        ...

    def __call__(
        self, server_round: int, model: Mapping[str, Floats], releases: RecordedUpdates
    ) -> dict[str, Floats]:
        """Return numbers (k, p) by name for k > 0 updates of a round."""
        ...


def choose_layers(layers: str, parameters: Sequence[str], key: str) -> list[str]:
    """Return the parameters of the layers that the configuration names under `key`.

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


class Transcript:
    """A transcript on disk.

    Raises
    ------
    UserError
        If the folder holds no transcript, or a damaged one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._checked_files = set[Path]()
        try:
            found = read_json(folder / "meta.json")
            if problem := schema_problem(SCHEMA, found):
                raise ValueError(problem)
            self.meta = TranscriptMeta(**found)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{folder}: no readable transcript; run fedser stage=train") from error

    def __iter__(self) -> Iterator[RecordedUpdates]:
        """Yield the updates in order, in parts of one large file or several small files."""
        with self._open("updates") as files:
            chunk: list[tuple[Any, slice]] = []
            size = 0
            for file, path in zip(files, self._paths("updates"), strict=True):
                if not file.get_slice("round").get_shape()[0]:
                    continue  # only empty cohorts, and safetensors reads no slice of an empty array
                if chunk and size + path.stat().st_size > CHUNK_BYTES:
                    yield self._releases(chunk, self.meta.recorded)
                    chunk, size = [], 0
                chunk.append((file, slice(None)))
                size += path.stat().st_size
            if chunk:
                yield self._releases(chunk, self.meta.recorded)

    def of_clients(
        self, parameters: Sequence[str], rows: Mapping[int, Ints] | None = None
    ) -> Iterator[RecordedUpdates]:
        """Yield the updates of one client after another, in the order of rounds.

        Only the updates of one client are in memory at a time.

        Parameters
        ----------
        parameters : sequence of str
            Recorded parameters, or numbers, to read.
        rows : mapping of int to ndarray of int, optional
            Clients to read, with the rows among the updates of each; by default all.
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
        """Yield each round with the model that its clients started from."""
        with self._open("globals") as files:
            for file in files:
                stored = {name: file.get_tensor(name) for name in list(file.keys())}
                self._check_finite(stored)
                for row, server_round in enumerate(stored.pop("round")):
                    yield int(server_round), {name: a[row] for name, a in stored.items()}

    @property
    def num_examples(self) -> Ints:
        """Number of utterances that each update claims, shape (k,)."""
        with self._open("updates") as files:
            found = [file.get_tensor("num_examples") for file in files]
        return np.concatenate([np.zeros(0, dtype=np.int64), *found])

    @property
    def num_models(self) -> int:
        """Number of global models: one more than the rounds that were run."""
        return len(self._model_rows)

    def models(self, rounds: Ints, parameters: Sequence[str]) -> dict[str, Floats]:
        """Return these parameters of the models that k rounds start from, shape (k, ...)."""
        with self._open("globals") as files:
            rows = [self._model_rows[server_round] for server_round in rounds.tolist()]
            found = {
                name: np.concatenate([files[f].get_slice(name)[i : i + 1] for f, i in rows])
                for name in parameters
            }
        self._check_finite(found)
        return found

    @cached_property
    def _model_rows(self) -> dict[int, tuple[int, int]]:
        """File and row of the model at the start of each round."""
        with self._open("globals") as files:
            rounds = [file.get_tensor("round").tolist() for file in files]
        return {r: (f, i) for f, stored in enumerate(rounds) for i, r in enumerate(stored)}

    def _releases(
        self, rows: Sequence[tuple[Any, slice]], parameters: Sequence[str]
    ) -> RecordedUpdates:
        """Read these rows of these files."""

        def read(name: str) -> npt.NDArray[np.generic]:
            return np.concatenate([file.get_slice(name)[part] for file, part in rows])

        rounds, client, sizes = (
            read(name).astype(np.int64) for name in ("round", "client", "num_examples")
        )
        arrays = {name: unpack(read(name), read(f"{name}.scale")) for name in parameters}
        self._check_finite(arrays)
        return RecordedUpdates(rounds, client, sizes, arrays)

    def _paths(self, kind: str) -> list[Path]:
        return sorted(self._folder.glob(f"{kind}-*.safetensors"))

    @contextmanager
    def _open(self, kind: str) -> Iterator[list[Any]]:
        """Open all files of a kind, in order; arrays are read later."""
        with ExitStack() as stack:
            files = []
            for path in self._paths(kind):
                try:
                    files.append(stack.enter_context(safe_open(path, framework="numpy")))
                    if path not in self._checked_files:
                        self._check(files[-1], kind)
                        self._checked_files.add(path)
                except (SafetensorError, ValueError, OSError) as error:
                    raise UserError(
                        f"{path}: damaged transcript ({brief(error)}); run fedser stage=train"
                    ) from error
            yield files

    def _check(self, file: Any, kind: str) -> None:
        """Reject a file if an array is missing, or if a length or a value is wrong."""
        names, columns = set(file.keys()), COLUMNS if kind == "updates" else COLUMNS[:1]
        recorded = self.meta.recorded if kind == "updates" else []
        needed = {*columns, *recorded, *(f"{name}.scale" for name in recorded)}
        if missing := sorted(needed - names):
            raise ValueError(f"{missing[0]} is missing")
        lengths = {name: file.get_slice(name).get_shape()[:1] for name in names}
        if {*map(len, lengths.values())} != {1} or len({n for (n,) in lengths.values()}) > 1:
            raise ValueError("arrays of unequal length")
        ranges = {"client": (0, self.meta.num_clients - 1), "num_examples": (1, MAX_COUNT)}
        for name in columns:
            column = file.get_tensor(name)
            if column.ndim != 1 or column.dtype.kind not in "iu":
                raise ValueError(f"{name} does not hold whole numbers")
            least, most = ranges.get(name, (0, MAX_COUNT))
            if len(column) and not least <= column.min() <= column.max() <= most:
                raise ValueError(f"{name} is out of range")

    def _check_finite(self, arrays: Mapping[str, Floats]) -> None:
        """Reject NaN and infinity: the server rejects such updates, so no run records them."""
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise UserError(
                    f"{self._folder}: damaged transcript ({name} is not finite); "
                    "run fedser stage=train"
                )
