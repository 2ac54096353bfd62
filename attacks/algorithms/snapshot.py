"""The snapshot attack: read an update at the global model at which its training started.

How hidden units answer an utterance differs from model to model, and is known at each model. At
each round's global model the adversary trains shadow clients. It regresses their updates on sums
over their utterances, S = sum_i phi(x_i, y_i) [x_i, 1]. Here x are the d features, and phi are the
indicators of the emotions and principal components of x. If an utterance is a sequence of frames,
the mean over its frames counts, as if attention were even. The regression gives the response B,
with one column per phi. With B, a victim's update W gives an estimate of the victim's own sums.
Updates of several rounds are evidence on the same sums. So noise averages out before anything is
squared, unlike in attacks on single updates. The classifier reads correlations between the columns
of the sums.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from fedser.attacks.algorithms.base import Evidence, Leaks, ModelAttack, score_columns
from fedser.attacks.algorithms.discriminant import CorrelationDiscriminant
from fedser.attacks.algorithms.layer_samples import FIRST, samples
from fedser.client.corpora.base import EMOTIONS
from fedser.client.features.frames import frame_counts, unpad
from fedser.client.training.dataset import Dataset, Examples
from fedser.common.arrays import Bools, Floats, Floats64, Ints
from fedser.common.errors import UserError

OUTLIER = 5.0  # z-scores are clipped here: some functionals of an utterance reach hundreds
TINY = np.float32(1e-12)
RIDGE = 1e-3  # as a share of the mean eigenvalue, if a regression could be degenerate


@dataclass
class Snapshot(ModelAttack):
    """Read updates by regression at each round's global model.

    Attributes
    ----------
    components : int
        Principal components among the phi.
    asked, draws : int
        As in `ModelAttack`.
    """

    name: ClassVar[str] = "snapshot"
    layer: ClassVar[str] = FIRST
    components: int
    asked: int
    draws: int

    def start(
        self, examples: Dataset, labels: Ints, groups: Ints, victims: int
    ) -> "SnapshotEvidence":
        """Return evidence without an update; see `ModelAttack.start`."""
        feature_map = FeatureMap(examples, self.components)
        shadow = ClientSums.of(len(examples))
        return SnapshotEvidence(feature_map, labels, groups, shadow, ClientSums.of(victims))


@dataclass
class SnapshotEvidence(Evidence):
    """What updates say of the sums of the A shadow clients and of the victims of one federation.

    Attributes
    ----------
    labels, groups : ndarray of int64, shape (A,)
        Of the shadow clients. `groups` is empty if they need no scores.
    """

    feature_map: "FeatureMap"
    labels: Ints
    groups: Ints
    shadow: "ClientSums"
    victims: "ClientSums"

    def add(
        self,
        victims: Ints,
        updates: Mapping[str, Floats],
        shadow: Ints,
        plain: Mapping[str, Floats],
        sent: Mapping[str, Floats],
    ) -> None:
        """Add one round; see `Evidence.add`."""
        response = self.feature_map.response(shadow, first_layer(plain))
        self.victims.add(victims, first_layer(updates), response)
        self.shadow.add(shadow, first_layer(sent), response)

    def score(
        self, leaked: str, shadow: Leaks, victims: Leaks
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Fit to the shadow clients' draws and score all draws; see `Evidence.score`."""
        prior = self.feature_map.prior
        own = self.shadow.estimates(shadow, leaked, prior)
        labels, classes = self.labels[own.client], int(self.labels.max()) + 1
        groups = self.groups[own.client] if len(self.groups) else np.zeros_like(own.client)
        discriminant = CorrelationDiscriminant(own.columns, labels, groups, classes)
        scored = []
        for group in np.unique(groups).tolist() if len(self.groups) else ():
            rows = groups == group
            table = own.table(discriminant.score(own.columns[rows], group), rows)
            scored.append(table.assign(label=labels[rows], group=group))
        found = self.victims.estimates(victims, leaked, prior)
        tables = pd.concat(scored) if scored else pd.DataFrame()
        return tables, found.table(discriminant.score(found.columns))


@dataclass
class ClientSums:
    """What updates say of the sums of K clients.

    Attributes
    ----------
    projected : list of list of ndarray, shape (J, d + 1)
        By client, B' W / s of each update. s is the update's mean squared residual.
    information : list of list of ndarray, shape (J, J)
        By client, B' B / s of each update.
    """

    projected: list[list[Floats]]
    information: list[list[Floats64]]

    @classmethod
    def of(cls, clients: int) -> "ClientSums":
        """Return an object without updates, of so many clients."""
        return cls([[] for _ in range(clients)], [[] for _ in range(clients)])

    def add(self, clients: Ints, updates: Floats, response: Floats) -> None:
        """Add the updates (k, h, d + 1) of k clients; `response` is B, shape (h, J)."""
        information = (response.T @ response).astype(np.float64)
        information += RIDGE * np.trace(information) / len(information) * np.eye(len(information))
        for client, update in zip(clients.tolist(), updates, strict=True):
            projected = response.T @ update
            explained = float((projected * np.linalg.solve(information, projected)).sum())
            residual = max(float(np.square(update).sum()) - explained, 1e-12) / update.size
            self.projected[client].append(projected / np.float32(residual))
            self.information[client].append(information / residual)

    def estimates(self, leaks: Leaks, leaked: str, prior: Floats64) -> "EstimatedSums":
        """Return the most probable sums for each draw of a client's leaked updates.

        Parameters
        ----------
        leaks : mapping of int to mapping of str to ndarray of bool
            The draws, by client and number of leaked updates.
        leaked : str
            The number of leaked updates.
        prior : ndarray, shape (J, J)
            Second moment of the sums.
        """
        sums: list[Floats64] = []
        clients: list[int] = []
        draws: list[int] = []
        for client, drawn in leaks.items():
            masks = drawn[leaked].astype(np.float64)
            projected = np.tensordot(masks, np.stack(self.projected[client]), 1)
            information = np.tensordot(masks, np.stack(self.information[client]), 1)
            sums.append(np.linalg.solve(information + np.linalg.inv(prior), projected))
            clients += [client] * len(masks)
            draws += range(len(masks))
        found = np.concatenate(sums).astype(np.float32)
        found /= np.linalg.norm(found, axis=1, keepdims=True) + TINY
        return EstimatedSums(leaked, np.array(clients), np.array(draws), found)


@dataclass(frozen=True)
class EstimatedSums:
    """Estimated sums of n draws, shape (n, J, d + 1); each column is divided by its norm."""

    leaked: str
    client: Ints
    draw: Ints
    columns: Floats

    def table(self, scores: Floats, kept: Bools | slice = slice(None)) -> pd.DataFrame:
        """Return scores (m, C) of the kept draws, with ``client``, ``leaked`` and ``draw``."""
        return pd.DataFrame(
            {"client": self.client[kept], "leaked": self.leaked, "draw": self.draw[kept]}
            | score_columns(scores)
        )


class FeatureMap:
    """The sums over the utterances of each shadow client, and their response at a model.

    Parameters
    ----------
    examples : Dataset
        Of A shadow clients.
    components : int
        Principal components of the features, at most.

    Attributes
    ----------
    sums : ndarray of float32, shape (A, J, d + 1)
    prior : ndarray, shape (J, J)
        Second moment of the sums.
    """

    def __init__(self, examples: Dataset, components: int) -> None:
        features = _clip(unpad(examples.features.numpy()))
        self._centre = features.mean(axis=0)
        _, values, axes = np.linalg.svd(features - self._centre, full_matrices=False)
        kept = slice(min(components, int((values > 1e-6 * values[0]).sum())))
        self._axes = axes[kept].T / (values[kept] / np.sqrt(len(features)))
        self.sums = np.stack([self._sum(client) for client in examples])
        second = np.einsum("ajd,aid->ji", self.sums, self.sums) / (
            len(self.sums) * self.sums.shape[2]
        )
        ridge = RIDGE * np.trace(second) / len(second) * np.eye(len(second))
        self.prior: Floats64 = second.astype(np.float64) + ridge

    def _sum(self, examples: Examples) -> Floats:
        emotions = np.eye(len(EMOTIONS), dtype=np.float32)[examples.labels.numpy()]
        features = unpad(examples.features.numpy())
        counts = frame_counts(examples.features.numpy())
        components = (_clip(features) - self._centre) @ self._axes
        phi = np.concatenate([emotions.repeat(counts, axis=0), components], axis=1)
        phi /= counts.repeat(counts)[:, None].astype(np.float32)
        ones = np.ones((len(phi), 1), dtype=np.float32)
        found = phi.T @ np.concatenate([features, ones], axis=1)
        return np.asarray(found, dtype=np.float32)

    def response(self, clients: Ints, updates: Floats) -> Floats:
        """Regress updates (a, h, d + 1) of a shadow clients on their sums; returns B, (h, J)."""
        sums = self.sums[clients]
        across = np.einsum("ajd,aid->ji", sums, sums)
        across += RIDGE * np.trace(across) / len(across) * np.eye(len(across), dtype=np.float32)
        moved = sum(u @ s.T for u, s in zip(updates, sums, strict=True))
        return np.asarray(np.linalg.solve(across, np.asarray(moved).T).T, dtype=np.float32)


def first_layer(gradients: Mapping[str, Floats]) -> Floats:
    """Return the first layer's weight and bias gradient side by side, (k, h, d + 1).

    Raises
    ------
    UserError
        If `gradients` lacks the first layer.
    """
    own = {name: array for name, array in gradients.items() if name.startswith(f"{FIRST}.")}
    if not own:
        raise UserError("attack=snapshot reads the first layer: add it to adversary.layers")
    return next(samples(own))


def _clip(features: Floats) -> Floats:
    return np.clip(features, -OUTLIER, OUTLIER)
