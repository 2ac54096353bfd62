"""Z-scores of features, by speaker or by corpus."""

from collections import defaultdict

import numpy as np

from fedser.client.features.frames import unpad
from fedser.client.speakers.corpus_data import CorpusData
from fedser.common.arrays import Floats, Ints

TINY = 1e-6
"""Standard deviation below which a feature counts as constant and is only centred."""


def _normalise(data: CorpusData, rows: Ints, fit_on: Ints, normalisation: str) -> Floats:
    """Return the z-scores of `rows`, with statistics from the rows `fit_on`."""
    features = data.features[rows]
    if normalisation == "none":
        return features
    if normalisation == "corpus":
        return _z_scores(features, data.features[fit_on])
    places, fitted = _by_speaker(data, rows), _by_speaker(data, fit_on)
    for speaker, own in places.items():
        features[own] = _z_scores(features[own], data.features[fit_on[fitted[speaker]]])
    return features


def _by_speaker(data: CorpusData, rows: Ints) -> dict[str, list[int]]:
    """Return where in `rows` the utterances of each speaker are."""
    places = defaultdict[str, list[int]](list)
    for place, row in enumerate(rows.tolist()):
        places[data.utterances[row].speaker].append(place)
    return dict(places)


def _z_scores(features: Floats, fit_on: Floats) -> Floats:
    fit_on = unpad(fit_on)
    # In double precision: some functionals are of the order of 1e7 with a small spread.
    mean = fit_on.mean(axis=0, dtype=np.float64)
    std = fit_on.std(axis=0, dtype=np.float64)
    std = np.where(std < TINY * np.maximum(1, np.abs(mean)), 1.0, std)
    scores = features - mean
    scores /= std
    return np.asarray(scores, dtype=np.float32)
