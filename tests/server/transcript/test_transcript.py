from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedser.common.errors import UserError
from fedser.server.transcript.transcript import (
    RecordedUpdates,
    Transcript,
    TranscriptMeta,
    choose_layers,
)
from fedser.server.transcript.writer import TranscriptWriter

PARAMETERS = [
    "dense.0.weight",
    "dense.0.bias",
    "dense.1.weight",
    "dense.1.bias",
    "dense.2.weight",
    "dense.2.bias",
]
LAYERS = ["dense.0.weight", "dense.0.bias"]


def meta(dtype: str = "float32") -> TranscriptMeta:
    return TranscriptMeta("f", "fedavg", 9, 3, LAYERS, dtype, {"learning_rate": 1e-3})


def releases(server_round: int, count: int = 3, scale: float = 1.0) -> RecordedUpdates:
    rng = np.random.default_rng(server_round)
    arrays = {
        "dense.0.weight": scale * rng.normal(size=(count, 4, 5)).astype(np.float32),
        "dense.0.bias": scale * rng.normal(size=(count, 4)).astype(np.float32),
    }
    return RecordedUpdates(
        np.full(count, server_round), np.arange(count), np.full(count, 7), arrays
    )


def write(folder, rounds, settings, scale=1.0):
    model = {"dense.0.weight": np.ones((4, 5), np.float32)}
    with TranscriptWriter(folder, settings, {}) as writer:
        for server_round in rounds:
            row = {name: array * server_round for name, array in model.items()}
            writer.record(server_round, row, [releases(server_round, scale=scale)])


def test_float32_is_read_back_exactly(tmp_path):
    write(tmp_path, range(1, 4), meta())
    stored = Transcript(tmp_path)
    assert stored.meta == meta()
    (chunk,) = stored
    np.testing.assert_array_equal(chunk.round, np.repeat([1, 2, 3], 3))
    np.testing.assert_array_equal(chunk.client, [0, 1, 2] * 3)
    np.testing.assert_array_equal(chunk.num_examples, 7)
    for name in LAYERS:
        expected = np.concatenate([releases(r).arrays[name] for r in (1, 2, 3)])
        np.testing.assert_array_equal(chunk.arrays[name], expected)
    models = dict(stored.global_models())
    assert list(models) == [1, 2, 3]
    np.testing.assert_array_equal(models[2]["dense.0.weight"], 2.0)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_float16_loses_only_mantissa_at_any_magnitude(tmp_path, scale):
    write(tmp_path, [1], meta("float16"), scale)
    (chunk,) = Transcript(tmp_path)
    sent = releases(1, scale=scale).arrays["dense.0.weight"]
    largest = np.abs(sent).max(axis=(1, 2), keepdims=True)
    error = np.abs(chunk.arrays["dense.0.weight"] - sent)
    assert (error <= np.abs(sent) * 2**-11 + largest * 2**-24).all()


def test_a_zero_update_stays_zero(tmp_path):
    zero = releases(1)
    arrays = {name: np.zeros_like(a) for name, a in zero.arrays.items()}
    with TranscriptWriter(tmp_path, meta("float16"), {}) as writer:
        writer.record(1, {}, [RecordedUpdates(zero.round, zero.client, zero.num_examples, arrays)])
    (chunk,) = Transcript(tmp_path)
    assert (chunk.arrays["dense.0.weight"] == 0).all()


def test_full_chunks_are_written_at_once_and_read_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("fedser.server.transcript.transcript.CHUNK_BYTES", 1000)
    with TranscriptWriter(tmp_path, meta(), {}) as writer:
        for server_round in range(1, 8):
            writer.record(server_round, {}, [releases(server_round)])
    assert not list(tmp_path.glob("*.part"))
    chunks = [chunk.round.tolist() for chunk in Transcript(tmp_path)]
    assert [len(set(chunk)) for chunk in chunks] == [3, 3, 1]
    rounds = sum(chunks, [])
    assert rounds == sorted(rounds) == [r for r in range(1, 8) for _ in range(3)]


def test_a_round_without_updates_leaves_no_rows(tmp_path):
    with TranscriptWriter(tmp_path, meta(), {}) as writer:
        writer.record(1, {}, [releases(1, count=0)])
        writer.record(2, {}, [releases(2)])
    (chunk,) = Transcript(tmp_path)
    np.testing.assert_array_equal(chunk.round, 2)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("first", PARAMETERS[:2]),
        ("second", PARAMETERS[2:4]),
        ("last", PARAMETERS[4:]),
        ("all", PARAMETERS),
        ("dense.2, first", PARAMETERS[:2] + PARAMETERS[4:]),
    ],
)
def test_layers_are_chosen_by_place_or_name(layers, expected):
    assert choose_layers(layers, PARAMETERS, "transcript.layers") == expected


def test_unknown_layers_and_damaged_files_are_rejected(tmp_path):
    with pytest.raises(UserError, match=r"transcript\.layers: dense\.9 is not one of first"):
        choose_layers("dense.9", PARAMETERS, "transcript.layers")
    with pytest.raises(UserError, match="no readable transcript"):
        Transcript(tmp_path)
    write(tmp_path, [1], meta())
    damaged = next(tmp_path.glob("updates-*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:50])
    with pytest.raises(UserError, match=r"updates-00000\.safetensors: damaged"):
        list(Transcript(tmp_path))


def random_releases(server_round, clients):
    """Make updates with values that depend on the round and the client."""
    clients = np.array(clients, dtype=np.int64)
    weight = np.random.default_rng([server_round, 7]).normal(size=(len(clients), 4, 5))
    bias = 100 * server_round + clients[:, None] * np.ones(4)
    arrays = {"dense.0.weight": weight, "dense.0.bias": bias}
    return RecordedUpdates(
        np.full(len(clients), server_round),
        clients,
        clients + 3,
        {name: array.astype(np.float32) for name, array in arrays.items()},
    )


ROUNDS = st.lists(st.lists(st.integers(0, 5), unique=True, max_size=4), min_size=1, max_size=8)


@given(cohorts=ROUNDS, chunk=st.integers(1, 1500), picked=st.data())
def test_clients_are_read_in_order_for_any_chunks(tmp_path_factory, cohorts, chunk, picked):
    folder = tmp_path_factory.mktemp("t")
    sent = [random_releases(r, sorted(cohort)) for r, cohort in enumerate(cohorts, 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedser.server.transcript.transcript.CHUNK_BYTES", chunk)
        with TranscriptWriter(folder, meta(), {}) as writer:
            for server_round, releases_of_round in enumerate(sent, 1):
                writer.record(server_round, {}, [releases_of_round])
    expected = defaultdict(list)
    for of_round in sent:
        for row, client in enumerate(of_round.client.tolist()):
            expected[client].append((of_round.round[row], of_round.arrays["dense.0.weight"][row]))
    stored = Transcript(folder)
    found = list(stored.of_clients(["dense.0.weight"]))
    assert [part.client.tolist() for part in found] == [
        [client] * len(expected[client]) for client in sorted(expected)
    ]
    for part in found:
        rounds, weights = zip(*expected[int(part.client[0])], strict=True)
        assert part.round.tolist() == list(rounds) == sorted(rounds)
        np.testing.assert_array_equal(part.num_examples, part.client + 3)
        assert list(part.arrays) == ["dense.0.weight"]
        np.testing.assert_array_equal(part.arrays["dense.0.weight"], np.stack(weights))
    assert stored.num_examples.tolist() == [c + 3 for part in sent for c in part.client.tolist()]

    rows = {
        client: np.array(picked.draw(st.lists(st.integers(0, len(own) - 1), unique=True)), int)
        for client, own in expected.items()
        if picked.draw(st.booleans())
    }
    chosen = {int(p.client[0]): p for p in stored.of_clients(["dense.0.bias"], rows)}
    assert set(chosen) == {client for client, wanted in rows.items() if len(wanted)}
    for client, part in chosen.items():
        at = np.array([expected[client][row][0] for row in rows[client]])
        np.testing.assert_array_equal(part.round, at)
        np.testing.assert_array_equal(part.arrays["dense.0.bias"][:, 0], 100 * at + client)


def test_an_empty_transcript_has_no_clients(tmp_path):
    TranscriptWriter(tmp_path, meta(), {}).flush()
    stored = Transcript(tmp_path)
    assert list(stored.of_clients([])) == [] and list(stored) == []
    assert stored.num_examples.tolist() == [] and stored.num_models == 0


@pytest.mark.parametrize("chunk", [1, 400, 10**6])
def test_models_are_read_by_round_and_parameter(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("fedser.server.transcript.transcript.CHUNK_BYTES", chunk)
    rng = np.random.default_rng(0)
    made = {r: {n: rng.normal(size=(3, 2)).astype(np.float32) for n in "ab"} for r in range(1, 7)}
    with TranscriptWriter(tmp_path, meta(), {}) as writer:
        for server_round in range(1, 6):
            writer.record(server_round, made[server_round], [releases(server_round)])
        writer.record_model(6, made[6])
    stored = Transcript(tmp_path)
    assert stored.num_models == 6
    found = stored.models(np.array([6, 2, 2, 5]), ["b"])
    assert list(found) == ["b"]
    np.testing.assert_array_equal(found["b"], np.stack([made[r]["b"] for r in (6, 2, 2, 5)]))
    for server_round, model in stored.global_models():
        for name, array in model.items():
            np.testing.assert_array_equal(array, made[server_round][name])


@pytest.mark.parametrize("flushed_after", [1, 3])
def test_a_resumed_writer_replaces_what_came_after_the_save(tmp_path, flushed_after):
    with TranscriptWriter(tmp_path, meta(), {}) as writer:
        for server_round in range(1, flushed_after + 1):
            writer.record(server_round, {"w": np.full(2, server_round)}, [releases(server_round)])
        written = []
        writer.save_point(written.append)
        for server_round in range(flushed_after + 1, 5):
            writer.record(server_round, {"w": np.full(2, -1.0)}, [releases(99)])
            writer.flush()
    with TranscriptWriter(tmp_path, meta(), written[0]) as writer:
        for server_round in range(flushed_after + 1, 5):
            writer.record(server_round, {"w": np.full(2, server_round)}, [releases(server_round)])
        writer.record_model(5, {"w": np.full(2, 5.0)})
    stored = Transcript(tmp_path)
    np.testing.assert_array_equal(stored.models(np.arange(1, 6), ["w"])["w"][:, 0], range(1, 6))
    assert [r for part in stored for r in part.round.tolist()] == list(np.repeat(range(1, 5), 3))
