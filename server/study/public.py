"""Learn from public speech what a study may use without spending privacy."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from fedser.client.corpora.base import EMOTIONS
from fedser.client.corpora.build import named_corpus
from fedser.client.speakers.clients import whole_speakers
from fedser.client.speakers.corpus_data import CorpusData
from fedser.client.speakers.public_model import LIMIT, PublicModel
from fedser.common.arrays import Floats, Floats64, Ints
from fedser.common.errors import UserError
from fedser.conf.schema import StudyConfig
from fedser.server.federation.remote_clients import Roster
from fedser.server.study.run import read_corpus

AnyCorpus = TypeVar("AnyCorpus", bound=CorpusData | Roster)

FILE: Final = "public.safetensors"
"""Name of the public model in a run's folder."""
INVERSE_PENALTY: Final = 30.0
"""Weight of the mean cross entropy beside half the squared norm of the public layer's weights."""
EMPHASIS: Final = 0.75
"""Power of the correlation ratio of a component and the emotion that scales the component."""
LEAST_SCALE: Final = 1e-3
"""Components with a smaller standard deviation, relative to the largest one, are noise."""


def public_model(config: StudyConfig, folder: Path, save: bool) -> PublicModel | None:
    """Return the public model of a run, from its folder or fitted anew; None if it needs none.

    Parameters
    ----------
    save : bool
        Whether to write a new model to the folder: attacks, and users of the trained model, need
        the same one.

    Raises
    ------
    UserError
        As `fit_public_model` does.
    """
    if config.model.components is None:
        return None
    if (path := folder / FILE).exists():
        return PublicModel.load(path)
    fitted = fit_public_model(
        [
            read_corpus(named_corpus("public", entry, config.data_root), config)
            for entry in config.public
        ],
        config,
    )
    if save:
        fitted.save(path)
    return fitted


def with_public(corpus: AnyCorpus, public: PublicModel | None) -> AnyCorpus:
    """Return a private or a shadow corpus with the public model, which projects its features.

    Raises
    ------
    UserError
        If the public speech holds recordings of the corpus.
    """
    if public and (shared := len(public.digests & set(corpus.digests))):
        raise UserError(
            f"public: {shared} recording(s) of {corpus.name} are in the public speech; speech "
            "that is protected or attacked from must not be there: set other corpora in public"
        )
    return replace(corpus, public=public)


def fit_public_model(corpora: Sequence[CorpusData], config: StudyConfig) -> PublicModel:
    """Fit principal components and a softmax layer; each corpus has the same weight.

    Raises
    ------
    UserError
        If the public speech has fewer dimensions than ``model.components``, or lacks an emotion.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import

    speech = whole_speakers(corpora, config.seed, config.normalisation)
    if lacking := [e for i, e in enumerate(EMOTIONS) if i not in speech.labels]:
        raise UserError(f"public: nobody speaks with {', '.join(lacking)}; add a corpus")
    of_corpus = np.array(speech.corpora)[speech.client]
    sizes = Counter(of_corpus.tolist())
    weights = np.array([1 / (len(sizes) * sizes[name]) for name in of_corpus.tolist()])
    mean, directions = _directions(speech.features, speech.labels, weights, config.model.components)
    unfitted = PublicModel(mean, directions, {}, frozenset(d for c in corpora for d in c.digests))
    layer = LogisticRegression(C=INVERSE_PENALTY, max_iter=1000)
    layer.fit(unfitted.project(speech.features), speech.labels, sample_weight=weights)
    head = {"dense.0.weight": layer.coef_, "dense.0.bias": layer.intercept_}
    return replace(unfitted, head={name: a.astype(np.float32) for name, a in head.items()})


def _directions(
    features: Floats, labels: Ints, weights: Floats64, components: int
) -> tuple[Floats, Floats]:
    """Return the mean (d,) and the directions (d, k) of `PublicModel`."""
    features = np.clip(features, -LIMIT, LIMIT).astype(np.float64)
    mean = weights @ features
    root = np.sqrt(weights)[:, None]
    _, scales, rows = np.linalg.svd((features - mean) * root, full_matrices=False)
    rank = int((scales > LEAST_SCALE * scales[0]).sum())
    if rank < components:
        raise UserError(
            f"model.components={components}: the public speech has {rank} dimensions; set a "
            "smaller number, or more corpora in public"
        )
    whitening = rows[:components].T / scales[:components]
    ratios = _correlation_ratios((features - mean) @ whitening, labels, weights)
    return mean.astype(np.float32), (whitening * ratios**EMPHASIS).astype(np.float32)


def _correlation_ratios(values: Floats64, labels: Ints, weights: Floats64) -> Floats64:
    """Return the share of the standard deviation of each column that the classes explain, (k,).

    The columns (n, k) have mean 0 and variance 1 under the weights.
    """
    explained = np.zeros(values.shape[1])
    for label in np.unique(labels):
        own = weights * (labels == label)
        explained += (own @ values) ** 2 / own.sum()
    return np.sqrt(explained)
