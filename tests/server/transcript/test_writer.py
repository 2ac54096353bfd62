"""The threads of the writer: how much may wait, and how their errors are raised."""

import shutil
import threading
import weakref

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedser.common.errors import Suspended
from fedser.server.transcript import transcript
from fedser.server.transcript import writer as module
from fedser.server.transcript.transcript import RecordedUpdates, Transcript, TranscriptMeta
from fedser.server.transcript.writer import PENDING, TranscriptWriter

META = TranscriptMeta("f", "fedavg", 9, 3, ["w"], "float16", {})


def releases(server_round, count=3):
    arrays = {"w": np.full((count, 4), server_round, np.float32)}
    return RecordedUpdates(
        np.full(count, server_round), np.arange(count), np.ones(count, int), arrays
    )


@pytest.mark.parametrize(("large", "pending"), [(2**28, PENDING), (1, 1)])
def test_no_more_rounds_wait_than_promised(tmp_path, monkeypatch, large, pending):
    monkeypatch.setattr(module, "LARGE", large)
    go, started, pack = threading.Event(), threading.Event(), module.pack

    def slow(*arrays):
        started.set()
        assert go.wait(10)
        pack(*arrays)

    monkeypatch.setattr(module, "pack", slow)
    handed, alive = [], []

    def train(writer):
        for server_round in range(1, 8):
            sent = releases(server_round)
            alive.append(weakref.ref(sent.arrays["w"]))
            writer.record(server_round, {}, [sent])
            handed.append(server_round)

    with TranscriptWriter(tmp_path, META, {}) as writer:
        training = threading.Thread(target=train, args=[writer])
        training.start()
        assert started.wait(10)
        training.join(0.2)  # it waits for the disk
        assert handed == list(range(1, pending + 1)) and training.is_alive()
        go.set()
        training.join(10)
        assert handed == list(range(1, 8))
        writer.flush()
        assert not any(array() is not None for array in alive[:-1])
    (chunk,) = Transcript(tmp_path)
    np.testing.assert_array_equal(chunk.arrays["w"][:, 0], np.repeat(range(1, 8), 3))


def test_buffers_are_used_again(tmp_path, monkeypatch):
    monkeypatch.setattr(transcript, "CHUNK_BYTES", 200)
    saved = []

    def save(arrays, path):
        saved.append({name: array.ctypes.data for name, array in arrays.items()})
        module_save(arrays, path)

    module_save = module.save_file
    monkeypatch.setattr(module, "save_file", save)
    with TranscriptWriter(tmp_path, META, {}) as writer:
        for server_round in range(1, 20):
            writer.record(server_round, {}, [releases(server_round)])
    of_updates = [addresses for addresses in saved if "w" in addresses]
    assert len(of_updates) > 5 and len({tuple(a.values()) for a in of_updates}) == 1
    assert [len(chunk) for chunk in Transcript(tmp_path)][:2] == [6, 6]


def test_a_failed_write_suspends_and_leaves_no_gap(tmp_path, monkeypatch):
    folder = tmp_path / "t"
    monkeypatch.setattr(transcript, "CHUNK_BYTES", 1)
    message = f"{folder}: the transcript or its checkpoint cannot be written"
    with pytest.raises(Suspended, match=message), TranscriptWriter(folder, META, {}) as writer:
        writer.record(1, {}, [releases(1)])
        writer.flush()
        shutil.rmtree(folder)
        with pytest.raises(Suspended, match=message):
            for server_round in range(2, 9):
                writer.record(server_round, {}, [releases(server_round)])
        folder.mkdir()
        with pytest.raises(Suspended, match=message):
            writer.flush()
    assert not list(folder.iterdir())


def test_a_save_point_covers_exactly_what_came_before(tmp_path):
    go, saved = threading.Event(), []

    def save(files):
        assert go.wait(10)
        whole = {kind: sorted(tmp_path.glob(f"{kind}-*"))[:count] for kind, count in files.items()}
        rounds = {
            kind: [r for path in paths for r in load_file(path)["round"].tolist()]
            for kind, paths in whole.items()
        }
        saved.append((files, rounds))

    with TranscriptWriter(tmp_path, META, {}) as writer:
        for server_round in (1, 2):
            writer.record(server_round, {"w": np.zeros(4)}, [releases(server_round)])
            writer.save_point(save)  # and does not wait for it
        assert not saved
        go.set()
    one, two = {"updates": 1, "globals": 1}, {"updates": 2, "globals": 2}
    assert saved == [
        (one, {"updates": [1] * 3, "globals": [1]}),
        (two, {"updates": [1] * 3 + [2] * 3, "globals": [1, 2]}),
    ]


def test_recording_waits_only_for_the_second_save(tmp_path):
    go, saved, handed = threading.Event(), [], []

    def save(files):
        assert go.wait(10)
        saved.append(files["updates"])

    def train(writer):
        for server_round in range(1, 8):
            writer.record(server_round, {}, [releases(server_round)])
            writer.save_point(save)
            handed.append(server_round)

    with TranscriptWriter(tmp_path, META, {}) as writer:
        training = threading.Thread(target=train, args=[writer])
        training.start()
        training.join(0.5)
        # Two saves wait for the disk, the next one for them, and as many rounds as promised.
        assert handed == list(range(1, 2 * PENDING + 2)) and not saved
        go.set()
        training.join(10)
    assert saved == list(range(1, 8))


def test_a_failed_save_suspends_and_is_the_last(tmp_path):
    def full(files):
        raise OSError(28, "No space left on device")

    saved = []
    writer = TranscriptWriter(tmp_path, META, {})
    writer.save_point(full)
    writer.save_point(saved.append)
    with pytest.raises(Suspended, match=r"checkpoint cannot be written \(.*No space left"), writer:
        pass
    assert not saved


def test_other_errors_are_raised_unchanged(tmp_path):
    with pytest.raises(KeyError), TranscriptWriter(tmp_path, META, {}) as writer:
        writer.record(
            1, {}, [RecordedUpdates(np.ones(1, int), np.ones(1, int), np.ones(1, int), {})]
        )
    odd = RecordedUpdates(np.ones(1, int), np.ones(1, int), np.ones(1, int), {"w": np.ones((1, 5))})
    with pytest.raises(ValueError), TranscriptWriter(tmp_path, META, {}) as writer:
        writer.record(1, {}, [releases(1)])
        writer.record(1, {}, [odd])
