from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch

from fedser.client.speakers.clients import join_clients, make_clients, speaker_folds
from fedser.client.training.dataset import Dataset
from fedser.common.errors import UserError
from tests.examples import FEATURES, corpus, corpus_of_frames


def test_folds_divide_the_speakers_evenly():
    speakers = [f"s{i}" for i in range(23)]
    folds = speaker_folds(speakers, 5, seed=3)
    assert sorted(chain(*folds)) == sorted(speakers)
    assert sorted(map(len, folds)) == [4, 4, 5, 5, 5]
    assert folds == speaker_folds(speakers[::-1], 5, seed=3) != speaker_folds(speakers, 5, seed=4)


def test_fewer_speakers_than_folds_are_rejected():
    with pytest.raises(UserError, match=r"4 speaker\(s\) are too few for 5 test folds"):
        speaker_folds(["a", "b", "c", "d"], 5, seed=0)


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_are_even_and_hold_out_a_fifth(shards):
    data = corpus(utterances=31, shards=shards)
    made = make_clients(data, data.speakers[:4], 0, "speaker")
    assert len(made) == 4 * shards
    assert sorted(made.rows) == sorted(np.flatnonzero([u.speaker < "s04" for u in data.utterances]))
    sizes = np.bincount(made.client)
    held = np.bincount(made.client, weights=made.validation)
    assert sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(held, np.round(0.2 * sizes))
    np.testing.assert_array_equal(made.sizes(), sizes - held)
    for row, client in zip(made.rows, made.client, strict=True):
        assert data.utterances[row].speaker == made.speakers[client]
    np.testing.assert_array_equal(made.labels, data.labels[made.rows])


def test_the_smallest_client_trains_and_validates():
    data = corpus(utterances=4, shards=2)
    made = make_clients(data, data.speakers, 0, "speaker")
    assert (made.sizes() == 1).all() and made.validation.sum() == len(made)


def test_saved_frames_can_be_loaded_for_training(tmp_path):
    data = corpus_of_frames()
    made = make_clients(data, data.speakers, 0, "none")
    assert made.dimension == FEATURES
    np.testing.assert_array_equal(made.features, data.features[made.rows])
    made.save_training(tmp_path / "x.safetensors")
    for client, examples in enumerate(Dataset.load(tmp_path / "x.safetensors", "cpu")):
        own = (made.client == client) & ~made.validation
        np.testing.assert_array_equal(examples.features, made.features[own])


def test_clients_and_test_folds_share_no_speaker():
    data = corpus(speakers=13)
    folds = speaker_folds(data.speakers, 5, 0)
    for test in folds:
        made = make_clients(data, [s for s in data.speakers if s not in test], 0, "speaker")
        assert set(made.speakers).isdisjoint(test)
        assert Counter(made.speakers).total() == 13 - len(test)


def test_joined_clients_are_numbered_in_order():
    first, second = corpus("a", speakers=3), corpus("b", speakers=2, shards=2, seed=1)
    parts = [make_clients(d, d.speakers, 0, "speaker") for d in (first, second)]
    joined = join_clients(parts)
    assert joined.corpora == ["a"] * 3 + ["b"] * 4
    np.testing.assert_array_equal(joined.sizes(), [*parts[0].sizes(), *parts[1].sizes()])
    np.testing.assert_array_equal(joined.features[joined.client >= 3], parts[1].features)


def test_saved_training_data_can_be_loaded(tmp_path):
    data = corpus(utterances=14, shards=2)
    made = make_clients(data, data.speakers, 0, "speaker")
    made.save_training(tmp_path / "x.safetensors")
    loaded = Dataset.load(tmp_path / "x.safetensors", "cpu")
    assert len(loaded) == len(made)
    for client, examples in enumerate(loaded):
        own = (made.client == client) & ~made.validation
        np.testing.assert_array_equal(examples.features, made.features[own])
        np.testing.assert_array_equal(examples.labels, made.labels[own])
    np.testing.assert_array_equal(loaded.sizes(range(len(made))), made.sizes())
    again = Dataset.of(list(loaded))
    assert torch.equal(again.features, loaded.features)
    assert torch.equal(again.bounds, loaded.bounds)
