import numpy as np
import pytest

from client.errors import UserError
from server import transcript
from server.transcript import (
    Releases,
    Transcript,
    TranscriptMeta,
    TranscriptWriter,
    choose_layers,
)

PARAMETERS = [
    "dense.0.weight",
    "dense.0.bias",
    "dense.1.weight",
    "dense.1.bias",
    "dense.2.weight",
    "dense.2.bias",
]
LAYERS = ["dense.0.weight", "dense.0.bias"]


def meta(dtype: str = "float32", global_models: bool = True) -> TranscriptMeta:
    return TranscriptMeta(
        "f", "fedavg", 9, 3, LAYERS, dtype, global_models, {"learning_rate": 1e-3}
    )


def releases(server_round: int, count: int = 3, scale: float = 1.0) -> Releases:
    rng = np.random.default_rng(server_round)
    arrays = {
        "dense.0.weight": scale * rng.normal(size=(count, 4, 5)).astype(np.float32),
        "dense.0.bias": scale * rng.normal(size=(count, 4)).astype(np.float32),
    }
    return Releases(np.full(count, server_round), np.arange(count), np.full(count, 7), arrays)


def write(folder, rounds, settings, scale=1.0):
    model = {"dense.0.weight": np.ones((4, 5), np.float32)}
    with TranscriptWriter(folder, settings, {}) as writer:
        for server_round in rounds:
            row = {name: array * server_round for name, array in model.items()}
            writer.record(server_round, row, releases(server_round, scale=scale))


def test_float32_comes_back_as_it_was(tmp_path):
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
def test_float16_loses_mantissa_alone_at_any_magnitude(tmp_path, scale):
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
        writer.record(1, {}, Releases(zero.round, zero.client, zero.num_examples, arrays))
    (chunk,) = Transcript(tmp_path)
    assert (chunk.arrays["dense.0.weight"] == 0).all()


def test_full_chunks_are_written_at_once_and_read_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(transcript, "CHUNK_BYTES", 1000)
    with TranscriptWriter(tmp_path, meta(global_models=False), {}) as writer:
        for server_round in range(1, 8):
            writer.record(server_round, {}, releases(server_round))
        assert len(list(tmp_path.glob("updates-*.safetensors"))) == 2
    assert not list(tmp_path.glob("globals-*")) and not list(tmp_path.glob("*.part"))
    rounds = [r for chunk in Transcript(tmp_path) for r in chunk.round.tolist()]
    assert rounds == sorted(rounds) == [r for r in range(1, 8) for _ in range(3)]


def test_a_round_without_updates_leaves_no_rows(tmp_path):
    with TranscriptWriter(tmp_path, meta(), {}) as writer:
        writer.record(1, {}, releases(1, count=0))
        writer.record(2, {}, releases(2))
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


def test_an_unknown_layer_and_a_damaged_transcript_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"transcript\.layers: dense\.9 is not one of first"):
        choose_layers("dense.9", PARAMETERS, "transcript.layers")
    with pytest.raises(UserError, match="no readable transcript"):
        Transcript(tmp_path)
    write(tmp_path, [1], meta())
    damaged = next(tmp_path.glob("updates-*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:50])
    with pytest.raises(UserError, match=r"updates-00000\.safetensors: damaged"):
        list(Transcript(tmp_path))
