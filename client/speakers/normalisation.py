"""Normalise features to z-scores, per speaker or per corpus."""

from collections import defaultdict

import numpy as np

from fedser.client.features.frames import unpad
from fedser.client.speakers.corpus_data import CorpusData
from fedser.common.arrays import Floats, Ints

MIN_RELATIVE_DEVIATION = 1e-6
"""A feature with a smaller standard deviation, relative to max(1, |mean|), is only centred."""


def normalise(data: CorpusData, rows: Ints, fit_on: Ints, normalisation: str) -> Floats:
    """Return the normalised features of `rows`, shape (len(rows), d) or (len(rows), T, d).

    If the corpus has a public model, return their projection, shape (len(rows), k).

    Parameters
    ----------
    rows, fit_on : ndarray of int64
        Rows of `data` to normalise, and rows that give mean and standard deviation.
    normalisation : str
        ``speaker`` and ``corpus`` return z-scores with statistics per speaker or over all rows of
        `fit_on`; ``none`` returns the features unchanged.
    """
    features = _normalised(data, rows, fit_on, normalisation)
    return data.public.project(features) if data.public else features


def _normalised(data: CorpusData, rows: Ints, fit_on: Ints, normalisation: str) -> Floats:
    features = data.features[rows]
    if normalisation == "none":
        return features
    if normalisation == "corpus":
        return _z_scores(features, data.features[fit_on])
    fit_positions = positions_by_speaker(data, fit_on)
    for speaker, own in positions_by_speaker(data, rows).items():
        features[own] = _z_scores(features[own], data.features[fit_on[fit_positions[speaker]]])
    return features


def positions_by_speaker(data: CorpusData, rows: Ints) -> dict[str, list[int]]:
    """Return the positions in `rows` of the utterances of each speaker."""
    positions = defaultdict[str, list[int]](list)
    for position, row in enumerate(rows.tolist()):
        positions[data.utterances[row].speaker].append(position)
    return dict(positions)


def _z_scores(features: Floats, fit_on: Floats) -> Floats:
    fit_on = unpad(fit_on)
    # In float64: some functionals have values near 1e7 and a small standard deviation.
    mean = fit_on.mean(axis=0, dtype=np.float64)
    std = fit_on.std(axis=0, dtype=np.float64)
    std = np.where(std < MIN_RELATIVE_DEVIATION * np.maximum(1, np.abs(mean)), 1.0, std)
    scores = features - mean
    scores /= std
    return np.asarray(scores, dtype=np.float32)
