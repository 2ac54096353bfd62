"""The three kinds of attacks, and what each of them needs."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd

from fedser.client.training.dataset import Dataset
from fedser.common.arrays import Bools, Floats, Ints


@dataclass(frozen=True)
class ShadowUpdates:
    """k updates of shadow speakers, to fit an attack to.

    Attributes
    ----------
    gradients : mapping of str to ndarray of float32, shape (k, ...)
        Pseudo-gradients by parameter.
    labels : ndarray of int64, shape (k,)
        Class of the attribute, 0 to C - 1.
    """

    gradients: dict[str, Floats]
    labels: Ints


Stream = Callable[[], Iterator[ShadowUpdates]]
"""Reads the examples again at every call, because they may not fit into memory."""

Leaks = Mapping[int, Mapping[str, Bools]]
"""By client and number of leaked updates: which of the client's k updates leak, (draws, k)."""


class Attack(Protocol):
    """Infers an attribute of a speaker from single updates of the speaker's client.

    `fit` gets updates of shadow clients, whose attributes are known. `features` reads each update,
    and `score` scores these features, or their mean over several updates. The features should be
    few, because ``transcript.store=features`` stores only them. If an attack has as many features
    as there are parameters, its class sets the attribute ``large_features = True``.
    """

    @property
    def name(self) -> str:
        """Name in ``attack=``."""
        ...

    @property
    def max_examples(self) -> int | None:
        """Maximum number of shadow updates that `fit` gets; None: all."""
        ...

    def fit(self, examples: Stream) -> None:
        """Fit to examples of every class."""
        ...

    def features(self, gradients: Mapping[str, Floats]) -> Floats:
        """Return the features (k, p) of k pseudo-gradients."""
        ...

    def score(self, features: Floats) -> Floats:
        """Return the log-probabilities (k, C) of the classes, up to a constant per row."""
        ...


class Evidence(ABC):
    """What an attack of the kind `ModelAttack` collects over the rounds of one federation."""

    @abstractmethod
    def add(
        self,
        victims: Ints,
        updates: Mapping[str, Floats],
        shadow: Ints,
        plain: Mapping[str, Floats],
        sent: Mapping[str, Floats],
    ) -> None:
        """Add one round: k updates of victims and a updates of shadow clients.

        Parameters
        ----------
        victims, shadow : ndarray of int64, shape (k,) and (a,)
            Client of each update.
        updates : mapping of str to ndarray of float32, shape (k, ...)
            Pseudo-gradients of the victims.
        plain, sent : mapping of str to ndarray of float32, shape (a, ...)
            Pseudo-gradients of the shadow clients, before and after the victims' mechanism.
        """

    @abstractmethod
    def score(
        self, leaked: str, shadow: Leaks, victims: Leaks
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Score each draw of `leaked` updates of each shadow client and of each victim.

        Returns
        -------
        tuple of DataFrame
            ``client``, ``leaked``, ``draw`` and ``score_*`` of the shadow clients, then of the
            victims. The former also have ``label`` and ``group``: nothing that was fitted to the
            group scores it. They are empty if there are no groups.
        """


class ModelAttack(ABC):
    """Infers an attribute by training shadow clients at each round's global model.

    It needs ``adversary.vantage=attributed``, the initial weights, and every stored update.

    Attributes
    ----------
    name : str
        Name in ``attack=``.
    layer : str
        The layer that it reads. It does not run on ``adversary.layers`` without this layer.
    asked : int
        Number of shadow clients to train at each round's model.
    draws : int
        Random choices of leaked updates of each shadow client.
    """

    name: ClassVar[str]
    layer: ClassVar[str]
    asked: int
    draws: int

    @abstractmethod
    def start(self, examples: Dataset, labels: Ints, groups: Ints, victims: int) -> Evidence:
        """Start to collect evidence on the clients of one federation.

        Parameters
        ----------
        examples : Dataset
            Training examples of A shadow clients.
        labels, groups : ndarray of int64, shape (A,)
            Class and group of each. `groups` is empty if shadow clients need no scores.
        victims : int
            Number of victims.
        """


class ScoreAttack(ABC):
    """Infers an attribute from the scores of other attacks.

    It needs two shadow speakers of each class, because it is fitted to scores of shadow speakers
    by attacks that were fitted without them. It cannot recognise a speaker.

    Attributes
    ----------
    name : str
        Name in ``attack=``.
    of : list of str
        Names of the other attacks, which must run too.
    """

    name: ClassVar[str]
    of: list[str]

    @abstractmethod
    def fuse(
        self, shadow: Mapping[str, pd.DataFrame], victims: Mapping[str, pd.DataFrame]
    ) -> pd.DataFrame:
        """Fit to the scores of shadow clients, and score the victims by their scores.

        Parameters
        ----------
        shadow, victims : mapping of str to DataFrame
            By attack: ``federation``, ``client``, ``leaked``, ``draw`` and ``score_*``. `shadow`
            also has ``label`` and ``group``.

        Returns
        -------
        DataFrame
            Scores of the victims, with the columns of one attack in `victims`.
        """


def is_update_attack(attack: Any) -> bool:
    """Return whether an attack has the kind `Attack`, which reads single updates."""
    return not isinstance(attack, ModelAttack | ScoreAttack)


def gather(read: Callable[[Mapping[str, Floats]], Floats], examples: Stream) -> tuple[Floats, Ints]:
    """Return what `read` finds in all n examples, shape (n, p), and their labels (n,)."""
    found = [(read(batch.gradients), batch.labels) for batch in examples()]
    features, labels = zip(*found, strict=True)
    return np.concatenate(features), np.concatenate(labels)


def layers_of(gradients: Mapping[str, Floats]) -> Iterator[tuple[str, Floats, Floats]]:
    """Yield each recorded layer's name, weight gradient (k, h, d) and bias gradient (k, h).

    Some layers have no bias, because a bias would change nothing. The gradient is then 0.
    """
    for name, weight in gradients.items():
        if name.endswith(".weight"):
            layer = name.removesuffix(".weight")
            bias = gradients.get(f"{layer}.bias")
            yield layer, weight, np.zeros_like(weight[:, :, 0]) if bias is None else bias


def score_columns(scores: Floats) -> dict[str, Floats]:
    """Return scores (n, C) as columns of a table, ``score_0`` to ``score_{C-1}``."""
    return {f"score_{c}": column for c, column in enumerate(scores.T)}
