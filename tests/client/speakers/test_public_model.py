from dataclasses import replace

import numpy as np
import pytest

from fedser.client.speakers.clients import held_out_set, make_clients
from fedser.client.speakers.public_model import LIMIT, RADIUS, PublicModel
from fedser.common.errors import UserError
from tests.examples import FEATURES, corpus


def public_model(components=5, seed=0):
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=FEATURES).astype(np.float32)
    directions = rng.normal(size=(FEATURES, components)).astype(np.float32)
    head = {
        "dense.0.weight": rng.normal(size=(4, components)).astype(np.float32),
        "dense.0.bias": np.zeros(4, np.float32),
    }
    return PublicModel(mean, directions, head, frozenset({"one", "two"}))


def test_projected_utterances_have_one_norm():
    features = np.random.default_rng(1).normal(size=(20, FEATURES)).astype(np.float32)
    model = public_model()
    projected = model.project(features)
    np.testing.assert_allclose(np.linalg.norm(projected, axis=1), RADIUS, rtol=1e-5)
    straight = (features - model.mean) @ model.directions
    cosines = (projected * straight).sum(axis=1) / np.linalg.norm(straight, axis=1) / RADIUS
    np.testing.assert_allclose(cosines, 1, rtol=1e-5)


def test_outliers_are_cut_off_and_the_mean_stays_at_zero():
    model = public_model()
    high, higher = np.full((2, FEATURES), 2.0, np.float32)
    high[0], higher[0] = LIMIT, 1e9
    np.testing.assert_array_equal(model.project(high[None]), model.project(higher[None]))
    centred = PublicModel(np.zeros(FEATURES, np.float32), model.directions, {}, frozenset())
    assert not centred.project(np.zeros((1, FEATURES), np.float32)).any()


def test_a_saved_model_is_read_again(tmp_path):
    model = public_model()
    model.save(tmp_path / "public")
    read = PublicModel.load(tmp_path / "public")
    assert read == model and hash(read) == hash(model) and read.digests == model.digests
    np.testing.assert_array_equal(read.head["dense.0.weight"], model.head["dense.0.weight"])
    assert read != public_model(seed=1) and read != "a model"


def test_features_of_another_kind_are_rejected():
    with pytest.raises(UserError, match=f"reads {FEATURES} features, and these are 3"):
        public_model().project(np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("normalisation", ["speaker", "corpus", "none"])
def test_clients_and_test_speakers_are_projected_alike(normalisation):
    data, model = corpus(), public_model()
    plain = make_clients(data, data.speakers[:8], 0, normalisation)
    made = make_clients(replace(data, public=model), data.speakers[:8], 0, normalisation)
    np.testing.assert_array_equal(made.features, model.project(plain.features))
    assert made.dimension == 5
    tested, labels = held_out_set(
        replace(data, public=model), data.speakers[8:], plain, normalisation
    )
    features, expected = held_out_set(data, data.speakers[8:], plain, normalisation)
    np.testing.assert_array_equal(tested, model.project(features))
    np.testing.assert_array_equal(labels, expected)
