import numpy as np
import pytest

from attacks.statistics import Statistics
from attacks.tap import pseudo_gradients, tap
from client.app import app as client_app
from client.errors import UserError
from server import transcript
from server.app import federate
from server.grid import LocalGrid
from server.transcript import Releases, Transcript
from tests.examples import federation


def run(folder, **kwargs):
    return federate(LocalGrid(client_app), federation(folder / "t", **kwargs), folder, "cpu")


def test_a_pseudo_gradient_is_minus_the_update_by_rate_and_steps(tmp_path):
    run(tmp_path, rounds=2)
    stored = Transcript(tmp_path / "t")
    (chunk,) = stored
    # ten training utterances in batches of four: three steps at 5e-3
    assert set(chunk.num_examples) == {10}
    found = pseudo_gradients(stored.meta, chunk)
    np.testing.assert_allclose(
        found["dense.0.weight"], -chunk.arrays["dense.0.weight"] / (3 * 5e-3), rtol=1e-5
    )


def test_a_gradient_is_taken_as_it_is(tmp_path):
    run(tmp_path, rounds=2, algorithm="fedsgd")
    stored = Transcript(tmp_path / "t")
    (chunk,) = stored
    assert np.array_equal(
        pseudo_gradients(stored.meta, chunk)["dense.0.bias"], chunk.arrays["dense.0.bias"]
    )


def test_tapping_in_chunks_equals_tapping_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(transcript, "CHUNK_BYTES", 4000)
    run(tmp_path, rounds=6)
    stored = Transcript(tmp_path / "t")
    assert len(list(stored)) > 1
    attack = Statistics(1.0)
    tapped = [examples["statistics"] for examples in tap(stored, [attack])]
    chunks = list(stored)
    whole = Releases(
        *(
            np.concatenate([getattr(c, n) for c in chunks])
            for n in ("round", "client", "num_examples")
        ),
        {n: np.concatenate([c.arrays[n] for c in chunks]) for n in stored.meta.layers},
    )
    expected = attack.features(pseudo_gradients(stored.meta, whole))
    np.testing.assert_allclose(np.concatenate([t.features for t in tapped]), expected, rtol=1e-5)
    np.testing.assert_array_equal(np.concatenate([t.client for t in tapped]), whole.client)
    np.testing.assert_array_equal(np.concatenate([t.round for t in tapped]), whole.round)


def test_a_transcript_without_updates_is_refused(tmp_path):
    run(tmp_path, rounds=1)
    next((tmp_path / "t").glob("updates-*")).unlink()
    with pytest.raises(UserError, match="transcript of private-fold0 holds no update"):
        list(tap(Transcript(tmp_path / "t"), [Statistics(1.0)]))
