import numpy as np
import pytest

from fedser.client.speakers.clients import held_out_set, make_clients
from tests.examples import corpus, corpus_of_frames


def test_speaker_statistics_are_of_training_rows_only():
    data = corpus(utterances=20, shards=2)
    made = make_clients(data, data.speakers, 0, "speaker")
    for speaker in data.speakers:
        own = np.array([made.speakers[c] == speaker for c in made.client])
        train = data.features[made.rows[own & ~made.validation]].astype(np.float64)
        expected = (data.features[made.rows[own]] - train.mean(0)) / train.std(0)
        np.testing.assert_allclose(made.features[own], expected, atol=1e-4)


def test_corpus_statistics_are_used_for_test_speakers():
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


def test_a_test_speaker_has_its_own_statistics():
    data = corpus(utterances=20)
    made = make_clients(data, data.speakers[:8], 0, "speaker")
    features, _ = held_out_set(data, data.speakers[8:], made, "speaker")
    for part in (features[:20], features[20:]):
        np.testing.assert_allclose(part.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(part.std(0), 1, atol=1e-5)


@pytest.mark.parametrize("normalisation", ["speaker", "corpus"])
def test_frame_statistics_are_of_real_training_frames(normalisation):
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


def test_no_normalisation_keeps_the_features():
    data = corpus()
    made = make_clients(data, data.speakers[:8], 0, "none")
    np.testing.assert_array_equal(made.features, data.features[made.rows])
    features, _ = held_out_set(data, data.speakers[8:], made, "none")
    np.testing.assert_array_equal(features, data.features[-24:])


def test_a_constant_feature_is_only_centred():
    data = corpus()
    data.features[:, 0] = 1e7
    made = make_clients(data, data.speakers, 0, "speaker")
    assert np.isfinite(made.features).all() and (made.features[:, 0] == 0).all()
