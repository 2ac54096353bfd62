"""Learn from public speech what a study may use without spending privacy."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from safetensors import SafetensorError

from fedser.client.corpora.base import EMOTIONS
from fedser.client.corpora.build import named_corpus
from fedser.client.speakers.clients import whole_speakers
from fedser.client.speakers.corpus_data import CorpusData
from fedser.client.speakers.public_model import LIMIT, PublicModel, activations
from fedser.common.arrays import Arrays, Floats, Floats64, Ints
from fedser.common.cache import cache_folder, filling
from fedser.common.errors import UserError, brief
from fedser.conf.schema import StudyConfig
from fedser.server.federation.remote_clients import Roster
from fedser.server.study.public_network import train_hidden_layers
from fedser.server.study.run import read_corpus

AnyCorpus = TypeVar("AnyCorpus", bound=CorpusData | Roster)

FORMAT: Final = 1
"""Raise this number whenever the same speech and settings give another model."""
FILE: Final = "public.safetensors"
"""Name of the public model in a run's folder."""
INVERSE_PENALTY: Final = 30.0
"""Weight of the mean cross entropy beside half the squared norm of the public layer's weights."""
EMPHASIS: Final = 0.75
"""Power of the correlation ratio of a component and the emotion that scales the component."""
LEAST_SCALE: Final = 1e-3
"""Components with a smaller standard deviation, relative to the largest one, are noise."""


def public_model(config: StudyConfig, folder: Path, save: bool) -> PublicModel | None:
    """Return the public model of a run: from its folder, from the cache, or fitted anew.

    None if the run needs none.

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
    fitted = _cached_model(
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


def _cached_model(corpora: Sequence[CorpusData], config: StudyConfig) -> PublicModel:
    """Return the public model of these corpora from the cache, or fit it and keep it there."""
    digest = sha256(json.dumps([FORMAT, asdict(config.model), config.normalisation]).encode())
    digest.update(json.dumps([config.seed, *(data.name for data in corpora)]).encode())
    for data in corpora:
        spoken = [[u.speaker, u.emotion] for u in data.utterances]
        digest.update(json.dumps([data.digests, spoken]).encode())
        digest.update(np.ascontiguousarray(data.features).tobytes())
    folder = cache_folder(config.cache) / "public"
    path = folder / f"{digest.hexdigest()[:24]}.safetensors"
    if path.exists():
        try:
            return PublicModel.load(path)
        except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
            print(f"{path}: damaged ({brief(error)}): made anew", file=sys.stderr)
    fitted = fit_public_model(corpora, config)
    with filling(Path(config.cache)):
        folder.mkdir(exist_ok=True)
        fitted.save(path)
    return fitted


def fit_public_model(corpora: Sequence[CorpusData], config: StudyConfig) -> PublicModel:
    """Fit hidden layers if the model has some, principal components, and a softmax layer.

    Each corpus has the same weight.

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
    hidden: Arrays = {}
    if layers := list(config.model.public_hidden):
        limited = np.clip(speech.features, -LIMIT, LIMIT)
        hidden = train_hidden_layers(limited, speech.labels, weights, layers, config.seed)
    units = activations(speech.features, hidden)
    mean, directions = _directions(units, speech.labels, weights, config.model.components)
    digests = frozenset(digest for data in corpora for digest in data.digests)
    unfitted = PublicModel(mean, directions, {}, digests, hidden)
    layer = LogisticRegression(C=INVERSE_PENALTY, max_iter=1000)
    layer.fit(unfitted.project(speech.features), speech.labels, sample_weight=weights)
    head = {"dense.0.weight": layer.coef_, "dense.0.bias": layer.intercept_}
    return replace(unfitted, head={name: a.astype(np.float32) for name, a in head.items()})


def _directions(
    units: Floats, labels: Ints, weights: Floats64, components: int
) -> tuple[Floats, Floats]:
    """Return the mean (h,) and the directions (h, k) of `PublicModel` for units (n, h)."""
    mean = weights @ units.astype(np.float64)
    root = np.sqrt(weights)[:, None]
    _, scales, rows = np.linalg.svd((units - mean) * root, full_matrices=False)
    rank = int((scales > LEAST_SCALE * scales[0]).sum())
    if rank < components:
        raise UserError(
            f"model.components={components}: the public speech has {rank} dimensions; set a "
            "smaller number, or more corpora in public"
        )
    whitening = rows[:components].T / scales[:components]
    ratios = _correlation_ratios((units - mean) @ whitening, labels, weights)
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
