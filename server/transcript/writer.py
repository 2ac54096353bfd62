"""Writes a transcript, as `server.transcript.transcript` describes it, while the run goes on."""

import json
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file

from fedser.common.arrays import Floats
from fedser.common.errors import Suspended, UserError
from fedser.common.files import make_private, remove_leftovers, replacing, sync, write_text
from fedser.server.transcript import transcript
from fedser.server.transcript.packing import pack
from fedser.server.transcript.transcript import Reader, RecordedUpdates, TranscriptMeta

PENDING = 2
"""Rounds that were handed over and are not written yet, at most."""
LARGE = 2**28
"""Bytes of a round of which only one may be pending."""


class TranscriptWriter:
    """Appends releases and global models, writing a file whenever a chunk is full.

    A thread packs and writes while the run goes on, and another waits for the disk and saves the
    run. Memory stays at `PENDING` rounds of each and a chunk whatever the number of rounds: where
    the disk is slower than the clients, `record` waits. Use as a context manager. Everything
    raises `Suspended` as soon as it is known that something could not be written; nothing is
    written after that.

    Parameters
    ----------
    written : mapping of str to int
        How many files there were when the run that goes on was last saved; empty for a new one.
        Later files are removed.
    reader : Reader, optional
        Reads the updates in the thread, which keeps its numbers in their place, and no model.

    Raises
    ------
    UserError
        If files that were written are missing.
    """

    def __init__(
        self,
        folder: Path,
        meta: TranscriptMeta,
        written: Mapping[str, int],
        reader: Reader | None = None,
    ) -> None:
        make_private(folder)
        remove_leftovers(folder)
        for path in folder.glob(".tmp??????"):  # safetensors names its own so
            path.unlink()
        self._folder, self._meta, self._reader = folder, meta, reader
        self._updates = _Chunks(folder, "updates", written.get("updates", 0))
        self._globals = _Chunks(folder, "globals", written.get("globals", 0))
        write_text(folder / "meta.json", json.dumps(asdict(meta), indent=2))
        self._thread = ThreadPoolExecutor(1, "transcript", torch.set_num_threads, (1,))
        self._pending: deque[Future[None]] = deque()
        self._disk = ThreadPoolExecutor(1, "checkpoint")
        self._saving: deque[Future[None]] = deque()  # which the first thread alone appends to
        self._failure: Exception | None = None

    def record(
        self, server_round: int, model: Mapping[str, Floats], received: Sequence[RecordedUpdates]
    ) -> None:
        """Record the model that the round's clients start from, and their updates.

        Arrays are not copied: they must not be changed from now on. No file ends within a round.
        """

        def write() -> None:
            if self._reader is None:
                self._add_model(server_round, model)
            for releases in received:
                if self._reader is None:
                    self._add_releases(releases, releases.arrays)
                elif len(releases):
                    numbers = self._reader(server_round, model, releases)
                    self._add_releases(releases, numbers)
            self._updates.flush(transcript.CHUNK_BYTES)

        size = sum(a.nbytes for releases in received for a in releases.arrays.values())
        self._hand_over(write, PENDING if size < LARGE else 1)

    def record_model(self, server_round: int, model: Mapping[str, Floats]) -> None:
        """Record the model that a round starts from."""
        if self._reader is None:
            self._hand_over(partial(self._add_model, server_round, model))

    def save_point(self, save: Callable[[dict[str, int]], None]) -> None:
        """Have all that was recorded taken to the disk, and then `save` the run.

        It is told how many files of each kind there are then. The run goes on meanwhile.
        """

        def write() -> None:
            written, unsynced = {}, []
            for chunks in (self._updates, self._globals):
                chunks.flush()
                unsynced += chunks.take_unsynced()
                written[chunks.kind] = chunks.written

            def keep() -> None:
                for path in unsynced:
                    sync(path)
                    _let_go(path)
                sync(self._folder)
                save(written)

            _wait(self._saving, PENDING - 1)
            self._saving.append(self._disk.submit(self._try, keep))

        self._thread.submit(self._try, write)

    def flush(self) -> None:
        """Write what is left, and wait until all is done."""
        for chunks in (self._updates, self._globals):
            self._hand_over(chunks.flush)
        _wait(self._pending, 0)
        _wait(self._saving, 0)
        self._check()

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is left."""
        try:
            self.flush()
        finally:
            self._thread.shutdown()
            self._disk.shutdown()

    def _hand_over(self, write: Callable[[], None], most: int = PENDING) -> None:
        """Have the thread do this next, once so few are pending with it."""
        _wait(self._pending, most - 1)
        self._check()
        self._pending.append(self._thread.submit(self._try, write))

    def _check(self) -> None:
        """Raise what went wrong by now."""
        if self._failure:
            raise self._failure

    def _try(self, write: Callable[[], None]) -> None:
        """Write unless something is missing already: there must be no gap."""
        if self._failure:
            return
        try:
            write()
        except (OSError, SafetensorError) as error:
            self._failure = Suspended(
                f"{self._folder}: the transcript or its checkpoint cannot be written ({error}); "
                "mend that, then go on"
            )
        except Exception as error:
            self._failure = error

    def _add_model(self, server_round: int, model: Mapping[str, Floats]) -> None:
        row = {name: np.asarray(array, np.float32)[None] for name, array in model.items()}
        self._globals.add({"round": np.array([server_round]), **row})
        self._globals.flush(transcript.CHUNK_BYTES)

    def _add_releases(self, releases: RecordedUpdates, arrays: Mapping[str, Floats]) -> None:
        recorded = {n: np.asarray(arrays[n], np.float32) for n in self._meta.recorded}
        about = {
            "round": releases.round,
            "client": releases.client,
            "num_examples": releases.num_examples,
        }
        packed = recorded if self._meta.dtype == "float16" else {}
        whole = {} if packed else recorded
        ones = {f"{name}.scale": np.ones(len(releases), np.float32) for name in whole}
        self._updates.add({**about, **whole, **ones}, packed)


def _wait(pending: deque[Future[None]], left: int) -> None:
    """Wait until so few are left."""
    while len(pending) > left:
        pending.popleft().result()


class _Chunks:
    """Rows of named arrays, written in files of about `CHUNK_BYTES`.

    They are gathered in buffers that are used again for the next file: memory that was touched
    before costs nothing to touch again.
    """

    def __init__(self, folder: Path, kind: str, written: int) -> None:
        self._folder, self.kind, self.written = folder, kind, written
        self._buffers: dict[str, npt.NDArray[Any]] = {}
        self._rows = 0
        self._last: Path | None = None
        self._unsynced: list[Path] = []
        files = sorted(folder.glob(f"{kind}-*"))
        if [path.name for path in files[:written]] != [self._path(i).name for i in range(written)]:
            raise UserError(f"{folder}: files of the transcript are missing; start the run anew")
        for later in files[written:]:
            later.unlink()

    def add(
        self,
        whole: Mapping[str, npt.NDArray[np.generic]],
        packed: Mapping[str, Floats] | None = None,
    ) -> None:
        """Append k rows: arrays (k, ...) as they are, and others in half precision."""
        for name, array in whole.items():
            self._room(name, array.shape, array.dtype)[:] = array
        for name, array in (packed or {}).items():
            scale = self._room(f"{name}.scale", (len(array),), np.float32)
            pack(array, self._room(name, array.shape, np.float16), scale)
        self._rows += len(whole["round"])

    def flush(self, least: int = 0) -> None:
        """Write the rows, if there are any and they come to so many bytes."""
        if self._rows and sum(array.nbytes for array in self._filled().values()) >= least:
            path = self._path(self.written)
            with replacing(path) as partial:
                save_file(self._filled(), partial)
            for written in (self._last or path, path):
                _let_go(written)
            self._rows, self.written, self._last = 0, self.written + 1, path
            self._unsynced.append(path)

    def take_unsynced(self) -> list[Path]:
        """Return the files that were written since this was last asked, to see to them."""
        taken, self._unsynced, self._last = self._unsynced, [], None
        return taken

    def _path(self, number: int) -> Path:
        return self._folder / f"{self.kind}-{number:05d}.safetensors"

    def _filled(self) -> dict[str, npt.NDArray[Any]]:
        return {name: buffer[: self._rows] for name, buffer in self._buffers.items()}

    def _room(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return a buffer's next rows."""
        end, buffer = self._rows + shape[0], self._buffers.get(name)
        if buffer is None or len(buffer) < end:
            grown = np.empty((max(end, 2 * self._rows), *shape[1:]), dtype)
            if buffer is not None:
                grown[: self._rows] = buffer[: self._rows]
            buffer = self._buffers[name] = grown
        return buffer[self._rows : end]


def _let_go(path: Path) -> None:
    """Start to move a file from memory to the disk, and drop what is there already.

    Gigabytes a run would fill the memory else, and to take a page that was never used before
    costs a virtual machine ten times what it costs to copy to one.
    """
    if not hasattr(os, "posix_fadvise"):  # macOS
        return
    file = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)
