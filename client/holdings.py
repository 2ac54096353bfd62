"""The data of a real node: its file, its use in a federation, and its description for a server."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from fedser.client.corpora.base import EMOTIONS, Utterance
from fedser.client.corpora.names import name_fault
from fedser.client.speakers.clients import Clients, held_out_set, make_clients
from fedser.client.speakers.corpus_data import CorpusData
from fedser.client.speakers.public_model import PublicModel
from fedser.client.training.dataset import Dataset, Examples
from fedser.client.training.request import Hosting
from fedser.common.errors import UserError, check_choice

NORMALISATIONS = ("speaker", "none")
"""Normalisations that need no statistics of other nodes' features."""


@dataclass(frozen=True)
class FederationData:
    """A node's data for one federation.

    Attributes
    ----------
    training : Dataset
        By the client numbers of the federation; clients of other nodes are empty here.
    validation, test : Examples
        Held-out utterances of the node's clients, and utterances of its test speakers.
    """

    training: Dataset
    validation: Examples
    test: Examples


class Holdings:
    """The utterances of a node's speakers: features and emotions, without audio and paths.

    Parameters
    ----------
    data : CorpusData
    features : str
        Key of the feature extractor.

    Raises
    ------
    UserError
        If the corpus or a speaker has a name that no server accepts.
    """

    def __init__(self, data: CorpusData, features: str) -> None:
        for kind, name in [("corpus.name", data.name), *(("speaker", s) for s in data.speakers)]:
            if fault := name_fault(name):
                raise UserError(f"{kind} {ascii(name[:80])}: {fault}; rename it at this node")
        self._data, self._features = data, features

    def save(self, path: Path) -> None:
        """Write the utterances to a file of this node."""
        about = {
            "corpus": self._data.name,
            "shards": self._data.shards,
            "features": self._features,
            "speakers": [u.speaker for u in self._data.utterances],
        }
        tensors: dict[str, np.ndarray[Any, Any]] = {
            "features": self._data.features,
            "labels": self._data.labels,
        }
        save_file(tensors, path, metadata={"about": json.dumps(about)})

    @classmethod
    def load(cls, path: Path) -> "Holdings":
        """Read a file that `save` wrote."""
        with safe_open(path, framework="numpy") as file:
            about = json.loads(file.metadata()["about"])
            features, labels = file.get_tensor("features"), file.get_tensor("labels")
        utterances = [
            Utterance(Path(), speaker, EMOTIONS[label])
            for speaker, label in zip(about["speakers"], labels, strict=True)
        ]
        data = CorpusData(about["corpus"], about["shards"], utterances, features, [], [])
        return cls(data, about["features"])

    @cached_property
    def roster(self) -> dict[str, Any]:
        """All that a server learns: speakers, their numbers of utterances, features, versions."""
        spoken = Counter(u.speaker for u in self._data.utterances)
        return {
            "version": version("fedser"),
            "corpus": self._data.name,
            "shards": self._data.shards,
            "features": self._features,
            "dimension": int(self._data.features.shape[-1]),
            "speakers": {speaker: spoken[speaker] for speaker in self._data.speakers},
        }

    def federation_data(
        self, hosting: Hosting, seed: int, device: str, public: PublicModel | None = None
    ) -> FederationData:
        """Return the data for a federation, divided and normalised as in a simulation.

        The features are projected if there is a public model.

        Raises
        ------
        UserError
            If the normalisation needs features of other nodes.
        KeyError
            If a speaker is not held here.
        """
        check_choice("normalisation", hosting.normalisation, NORMALISATIONS)
        data = replace(self._data, public=public)
        features = data.features[:0] if public is None else public.project(data.features[:0])
        empty = self._examples(np.zeros(0, np.int64), features, device)
        clients = [empty] * (1 + max((number for number, *_ in hosting.clients), default=-1))
        validation, test = empty, empty
        if trained := sorted({speaker for _, speaker, _ in hosting.clients}):
            own = make_clients(data, trained, seed, hosting.normalisation)
            for number, speaker, shard in hosting.clients:
                place = trained.index(speaker) * self._data.shards + shard
                clients[number] = self._training(own, place, device)
            features, labels = own.validation_set()
            validation = self._examples(labels, features, device)
        if hosting.test:
            features, labels = held_out_set(data, hosting.test, None, hosting.normalisation)
            test = self._examples(labels, features, device)
        return FederationData(Dataset.of(clients or [empty]), validation, test)

    def _training(self, own: Clients, place: int, device: str) -> Examples:
        rows = (own.client == place) & ~own.validation
        return self._examples(own.labels[rows], own.features[rows], device)

    def _examples(
        self, labels: np.ndarray[Any, Any], features: np.ndarray[Any, Any], device: str
    ) -> Examples:
        return Examples(torch.from_numpy(features).to(device), torch.from_numpy(labels).to(device))
