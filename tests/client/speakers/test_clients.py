from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from fedser.client.corpora.base import Listing, Utterance
from fedser.client.speakers.clients import held_out_set, join_clients, make_clients, speaker_folds
from fedser.client.speakers.corpus_data import CorpusData, load_corpus
from fedser.client.training.dataset import Dataset
from fedser.common.errors import UserError
from tests.examples import FEATURES, corpus, corpus_of_frames


def test_folds_partition_the_speakers_evenly():
    speakers = [f"s{i}" for i in range(23)]
    folds = speaker_folds(speakers, 5, seed=3)
    assert sorted(chain(*folds)) == sorted(speakers)
    assert sorted(map(len, folds)) == [4, 4, 5, 5, 5]
    assert folds == speaker_folds(speakers[::-1], 5, seed=3) != speaker_folds(speakers, 5, seed=4)


def test_fewer_speakers_than_folds_are_refused():
    with pytest.raises(UserError, match=r"4 speaker\(s\) are too few for 5 test folds"):
        speaker_folds(["a", "b", "c", "d"], 5, seed=0)


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_cut_a_speaker_evenly_and_hold_a_fifth_out(shards):
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


def test_the_smallest_client_still_trains_and_validates():
    data = corpus(utterances=4, shards=2)
    made = make_clients(data, data.speakers, 0, "speaker")
    assert (made.sizes() == 1).all() and made.validation.sum() == len(made)


def test_speaker_statistics_come_from_that_speakers_training_rows():
    data = corpus(utterances=20, shards=2)
    made = make_clients(data, data.speakers, 0, "speaker")
    for speaker in data.speakers:
        own = np.array([made.speakers[c] == speaker for c in made.client])
        train = data.features[made.rows[own & ~made.validation]].astype(np.float64)
        expected = (data.features[made.rows[own]] - train.mean(0)) / train.std(0)
        np.testing.assert_allclose(made.features[own], expected, atol=1e-4)


def test_corpus_statistics_come_from_all_training_rows_and_serve_test_speakers():
    data = corpus(utterances=20)
    made = make_clients(data, data.speakers[:8], 0, "corpus")
    train = data.features[made.rows[~made.validation]].astype(np.float64)
    expected = (data.features[made.rows] - train.mean(0)) / train.std(0)
    np.testing.assert_allclose(made.features, expected, atol=1e-4)
    features, labels = held_out_set(data, data.speakers[8:], made, "corpus")
    rows = np.flatnonzero([u.speaker >= "s08" for u in data.utterances])
    np.testing.assert_allclose(
        features, (data.features[rows] - train.mean(0)) / train.std(0), atol=1e-4
    )
    np.testing.assert_array_equal(labels, data.labels[rows])


def test_a_test_speaker_is_normalised_by_their_own_recordings():
    data = corpus(utterances=20)
    made = make_clients(data, data.speakers[:8], 0, "speaker")
    features, _ = held_out_set(data, data.speakers[8:], made, "speaker")
    for part in (features[:20], features[20:]):
        np.testing.assert_allclose(part.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(part.std(0), 1, atol=1e-5)


@pytest.mark.parametrize("normalisation", ["speaker", "corpus"])
def test_statistics_of_frames_come_from_all_real_frames_of_the_training_rows(normalisation):
    data = corpus_of_frames(utterances=20, shards=2)
    made = make_clients(data, data.speakers[:8], 0, normalisation)
    for speaker in made.speakers:
        own = np.array([made.speakers[c] == speaker for c in made.client])
        known = (own | (normalisation == "corpus")) & ~made.validation
        frames = [f[~np.isnan(f).any(1)] for f in data.features[made.rows[known]]]
        train = np.concatenate(frames).astype(np.float64)
        assert 1 < np.mean([len(f) for f in frames]) < 7  # ragged
        expected = (data.features[made.rows[own]] - train.mean(0)) / train.std(0)
        np.testing.assert_allclose(made.features[own], expected, atol=1e-4)
    test, _ = held_out_set(data, data.speakers[8:], made, normalisation)
    rows = np.flatnonzero([u.speaker >= "s08" for u in data.utterances])
    np.testing.assert_array_equal(np.isnan(test), np.isnan(data.features[rows]))
    if normalisation == "speaker":
        for part in (test[:20], test[20:]):
            frames = part[~np.isnan(part).any(2)]
            np.testing.assert_allclose(frames.mean(0), 0, atol=1e-5)
            np.testing.assert_allclose(frames.std(0), 1, atol=1e-5)


def test_frames_make_the_round_trip_to_training(tmp_path):
    data = corpus_of_frames()
    made = make_clients(data, data.speakers, 0, "none")
    assert made.dimension == FEATURES
    np.testing.assert_array_equal(made.features, data.features[made.rows])
    made.save_training(tmp_path / "x.safetensors")
    for client, examples in enumerate(Dataset.load(tmp_path / "x.safetensors", "cpu")):
        own = (made.client == client) & ~made.validation
        np.testing.assert_array_equal(examples.features, made.features[own])


def test_no_normalisation_leaves_features_alone():
    data = corpus()
    made = make_clients(data, data.speakers[:8], 0, "none")
    np.testing.assert_array_equal(made.features, data.features[made.rows])
    features, _ = held_out_set(data, data.speakers[8:], made, "none")
    np.testing.assert_array_equal(features, data.features[-24:])


def test_a_constant_feature_is_centred_not_blown_up():
    data = corpus()
    data.features[:, 0] = 1e7
    made = make_clients(data, data.speakers, 0, "speaker")
    assert np.isfinite(made.features).all() and (made.features[:, 0] == 0).all()


def test_pools_never_share_a_speaker():
    data = corpus(speakers=13)
    folds = speaker_folds(data.speakers, 5, 0)
    for test in folds:
        made = make_clients(data, [s for s in data.speakers if s not in test], 0, "speaker")
        assert set(made.speakers).isdisjoint(test)
        assert Counter(made.speakers).total() == 13 - len(test)


def test_clients_of_several_corpora_are_numbered_in_order():
    first, second = corpus("a", speakers=3), corpus("b", speakers=2, shards=2, seed=1)
    parts = [make_clients(d, d.speakers, 0, "speaker") for d in (first, second)]
    joined = join_clients(parts)
    assert joined.corpora == ["a"] * 3 + ["b"] * 4
    np.testing.assert_array_equal(joined.sizes(), [*parts[0].sizes(), *parts[1].sizes()])
    np.testing.assert_array_equal(joined.features[joined.client >= 3], parts[1].features)


def test_training_data_makes_the_round_trip(tmp_path):
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


def test_only_attributes_that_all_utterances_share_describe_a_speaker():
    assert corpus().attributes("s00") == {"gender": "female"}


class Fixed:
    """A corpus of given utterances."""

    name, on_bad_file = "fixed", "error"

    def __init__(self, utterances: list[Utterance], shards: int) -> None:
        self._utterances, self.shards = utterances, shards

    def listing(self, cache: Path) -> Listing:
        return Listing(self._utterances)


def test_impossible_age_bounds_are_refused_before_features_are_extracted(tmp_path):
    listed = [Utterance(Path(f"{i}.wav"), "anna", "anger") for i in range(4)]
    with pytest.raises(UserError, match=r"age_bounds=\[45, 30\]: must be ages above 0"):
        load_corpus(Fixed(listed, 1), None, tmp_path, [45, 30])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counts", "shards", "message"),
    [
        ({"anna": 1, "bert": 9}, 1, r"speaker anna has 1 utterance\(s\) but needs at least 2"),
        ({"anna": 9, "bert": 9}, 5, r"speaker anna has 9 .* at least 10 .* lower corpus\.shards"),
        ({}, 1, "corpus fixed: found no utterance of neutral, happiness, sadness, anger"),
        ({"anna": 9}, 0, r"corpus\.shards=0"),
    ],
)
def test_a_corpus_that_cannot_be_trained_on_is_refused(counts, shards, message, tmp_path):
    listed = [
        Utterance(Path(f"{s}{i}.wav"), s, "anger") for s, n in counts.items() for i in range(n)
    ]
    with pytest.raises(UserError, match=message):
        load_corpus(Fixed(listed, shards), extractor=None, cache=tmp_path)  # type: ignore[arg-type]


def test_labels_index_the_emotions():
    data = corpus(utterances=4, speakers=1)
    assert data.labels.tolist() == [0, 1, 2, 3]
    assert data.features.shape == (4, FEATURES)
    assert isinstance(data, CorpusData)
