"""Write a transcript during training, in the form of `server.transcript.transcript`."""

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
"""Rounds that may wait to be written, at most."""
LARGE = 2**28
"""Only one round of at least this many bytes may wait to be written."""


class TranscriptWriter:
    """Appends updates and global models, and writes a file whenever a chunk is full.

    One thread packs and writes during training. A second thread waits for the disk and then saves
    the checkpoint. Memory holds at most `PENDING` rounds for each thread and one chunk, for any
    number of rounds: if the disk is slower than the clients, `record` waits. Use as a context
    manager. After a write has failed, all methods raise `Suspended`, and nothing more is written.

    Parameters
    ----------
    written : mapping of str to int
        Files of each kind when a resumed run was last saved; empty for a new run. Later files are
        removed.
    reader : Reader, optional
        Reads the updates in the first thread; its numbers are written in place of updates, and no
        model is written.

    Raises
    ------
    UserError
        If files of a resumed run are missing.
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
        for path in folder.glob(".tmp??????"):  # temporary files of safetensors
            path.unlink()
        self._folder, self._meta, self._reader = folder, meta, reader
        self._updates = _Chunks(folder, "updates", written.get("updates", 0))
        self._globals = _Chunks(folder, "globals", written.get("globals", 0))
        write_text(folder / "meta.json", json.dumps(asdict(meta), indent=2))
        self._thread = ThreadPoolExecutor(1, "transcript", torch.set_num_threads, (1,))
        self._pending: deque[Future[None]] = deque()
        self._saving_thread = ThreadPoolExecutor(1, "checkpoint")
        self._saving: deque[Future[None]] = deque()  # only the first thread appends to it
        self._failure: Exception | None = None

    def record(
        self, server_round: int, model: Mapping[str, Floats], received: Sequence[RecordedUpdates]
    ) -> None:
        """Record the model at the start of a round, and the updates of its clients.

        Arrays are not copied: do not change them later. A round is never split between two files.
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
        self._submit(write, PENDING if size < LARGE else 1)

    def record_model(self, server_round: int, model: Mapping[str, Floats]) -> None:
        """Record the model at the start of a round."""
        if self._reader is None:
            self._submit(partial(self._add_model, server_round, model))

    def save_point(self, save: Callable[[dict[str, int]], None]) -> None:
        """Put all that was recorded on the disk, and then call `save`; training goes on meanwhile.

        `save` gets the number of files of each kind.
        """

        def write() -> None:
            written, unsynced = {}, []
            for chunks in (self._updates, self._globals):
                chunks.flush()
                unsynced += chunks.take_unsynced()
                written[chunks.kind] = chunks.written

            def sync_and_save() -> None:
                for path in unsynced:
                    sync(path)
                    _drop_from_memory(path)
                sync(self._folder)
                save(written)

            _wait(self._saving, PENDING - 1)
            self._saving.append(self._saving_thread.submit(self._try, sync_and_save))

        self._thread.submit(self._try, write)

    def flush(self) -> None:
        """Write what is left, and wait until all is written."""
        for chunks in (self._updates, self._globals):
            self._submit(chunks.flush)
        _wait(self._pending, 0)
        _wait(self._saving, 0)
        self._check()

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write what is left, and end the threads."""
        try:
            self.flush()
        finally:
            self._thread.shutdown()
            self._saving_thread.shutdown()

    def _submit(self, write: Callable[[], None], most: int = PENDING) -> None:
        """Give a task to the first thread once fewer than `most` tasks are pending."""
        _wait(self._pending, most - 1)
        self._check()
        self._pending.append(self._thread.submit(self._try, write))

    def _check(self) -> None:
        """Raise the first error of a thread, if there is one."""
        if self._failure:
            raise self._failure

    def _try(self, write: Callable[[], None]) -> None:
        """Write, unless a write has failed before: the transcript must have no gap."""
        if self._failure:
            return
        try:
            write()
        except (OSError, SafetensorError) as error:
            self._failure = Suspended(
                f"{self._folder}: the transcript or its checkpoint cannot be written ({error}); "
                "make it writable, then go on"
            )
        except Exception as error:
            self._failure = error

    def _add_model(self, server_round: int, model: Mapping[str, Floats]) -> None:
        row = {name: np.asarray(array, np.float32)[None] for name, array in model.items()}
        self._globals.add({"round": np.array([server_round]), **row})
        self._globals.flush(transcript.CHUNK_BYTES)

    def _add_releases(self, releases: RecordedUpdates, arrays: Mapping[str, Floats]) -> None:
        recorded = {n: np.asarray(arrays[n], np.float32) for n in self._meta.recorded}
        columns = {
            "round": releases.round,
            "client": releases.client,
            "num_examples": releases.num_examples,
        }
        packed = recorded if self._meta.dtype == "float16" else {}
        whole = {} if packed else recorded
        ones = {f"{name}.scale": np.ones(len(releases), np.float32) for name in whole}
        self._updates.add({**columns, **whole, **ones}, packed)


def _wait(pending: deque[Future[None]], left: int) -> None:
    """Wait until only `left` tasks are pending."""
    while len(pending) > left:
        pending.popleft().result()


class _Chunks:
    """Rows of named arrays, written in files of about `CHUNK_BYTES`.

    Rows are collected in buffers, which are used again for the next file: to write to memory for
    the first time is slow.
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
        """Append k rows: arrays `whole` (k, ...) as they are, and `packed` in half precision."""
        for name, array in whole.items():
            self._next(name, array.shape, array.dtype)[:] = array
        for name, array in (packed or {}).items():
            scale = self._next(f"{name}.scale", (len(array),), np.float32)
            pack(array, self._next(name, array.shape, np.float16), scale)
        self._rows += len(whole["round"])

    def flush(self, least: int = 0) -> None:
        """Write the rows to a file if there are any, and if they hold at least `least` bytes."""
        if self._rows and sum(array.nbytes for array in self._filled().values()) >= least:
            path = self._path(self.written)
            with replacing(path) as partial:
                save_file(self._filled(), partial)
            for written in (self._last or path, path):
                _drop_from_memory(written)
            self._rows, self.written, self._last = 0, self.written + 1, path
            self._unsynced.append(path)

    def take_unsynced(self) -> list[Path]:
        """Return the files that were written since the last call; the caller must sync them."""
        taken, self._unsynced, self._last = self._unsynced, [], None
        return taken

    def _path(self, number: int) -> Path:
        return self._folder / f"{self.kind}-{number:05d}.safetensors"

    def _filled(self) -> dict[str, npt.NDArray[Any]]:
        return {name: buffer[: self._rows] for name, buffer in self._buffers.items()}

    def _next(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return the next free rows of a buffer; make it larger if needed."""
        end, buffer = self._rows + shape[0], self._buffers.get(name)
        if buffer is None or len(buffer) < end:
            grown = np.empty((max(end, 2 * self._rows), *shape[1:]), dtype)
            if buffer is not None:
                grown[: self._rows] = buffer[: self._rows]
            buffer = self._buffers[name] = grown
        return buffer[self._rows : end]


def _drop_from_memory(path: Path) -> None:
    """Start to move a file from the page cache to the disk, and drop the part that is there.

    Otherwise gigabytes per run would fill the memory. A virtual machine takes ten times longer to
    provide a page that was never used than to copy to a page.
    """
    if not hasattr(os, "posix_fadvise"):  # macOS
        return
    file = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)
