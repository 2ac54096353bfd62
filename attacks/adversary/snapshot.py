"""The snapshot attack: what an update says of its client's data, read at the model it began at.

How hidden units answer an utterance differs from model to model, and is known at each. At every
round's global model the adversary trains speakers of its own and regresses their updates
on sums over their utterances, S = sum_i phi(x_i, y_i) [x_i, 1]: x are the d features, and phi are
the emotion's indicators and principal components of x. Of an utterance that is a sequence of frames
the mean over these counts, as if attention were even. The response B, one column a phi, then
turns a victim's update W into an estimate of the victim's own sums. Updates of several rounds
are evidence on the same sums, so that noise averages out before anything is squared, as in no
attack on single updates. Correlations between the columns of the sums are what is classified.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import log_softmax

from fedser.attacks.adversary.own_speakers import ShadowClients
from fedser.attacks.algorithms.base import score_columns
from fedser.attacks.algorithms.layer_samples import FIRST, samples
from fedser.client.corpora.base import EMOTIONS
from fedser.client.features.frames import frame_counts, unpad
from fedser.client.training.dataset import Examples
from fedser.common.arrays import Bools, Floats, Ints
from fedser.common.errors import UserError

Floats64 = npt.NDArray[np.float64]

OUTLIER = 5.0  # z-scores beyond are cut: some functionals of an utterance reach hundreds
TINY = np.float32(1e-12)
FLAT = 1e-8  # variance of a correlation below which it tells nothing, as on the diagonal
RIDGE = 1e-3  # of the mean eigenvalue, where a regression could be degenerate


@dataclass
class Snapshot:
    """Reads updates by regression at each round's global model.

    Attributes
    ----------
    components : int
        Principal components among the phi.
    asked : int
        Speakers of the adversary's trained at each round's model.
    draws : int
        Sets of updates that each of them is rehearsed with, a number of leaked updates.
    """

    name: ClassVar[str] = "snapshot"
    components: int
    asked: int
    draws: int


@dataclass
class ClientSums:
    """What updates say of the sums of K clients.

    Attributes
    ----------
    rounds : list of list of int, length K
    projected : list of list of ndarray, shape (J, d + 1)
        B' W / s of each update, s its mean squared residual.
    information : list of list of ndarray, shape (J, J)
        B' B / s.
    """

    rounds: list[list[int]]
    projected: list[list[Floats]]
    information: list[list[Floats64]]

    @classmethod
    def of(cls, clients: int) -> "ClientSums":
        """Return none yet."""
        return cls(*([[] for _ in range(clients)] for _ in range(3)))  # type: ignore[arg-type]

    def add(self, server_round: int, clients: Ints, updates: Floats, response: Floats) -> None:
        """Note the updates (k, h, d + 1) of k clients."""
        information = (response.T @ response).astype(np.float64)
        information += RIDGE * np.trace(information) / len(information) * np.eye(len(information))
        for client, update in zip(clients.tolist(), updates, strict=True):
            projected = response.T @ update
            explained = float((projected * np.linalg.solve(information, projected)).sum())
            residual = max(float(np.square(update).sum()) - explained, 1e-12) / update.size
            self.rounds[client].append(server_round)
            self.projected[client].append(projected / np.float32(residual))
            self.information[client].append(information / residual)

    def estimates(
        self, leaks: Mapping[int, Mapping[str, Bools]], leaked: str, prior: Floats64
    ) -> "EstimatedSums":
        """Return the sums that each draw of a client's leaked updates makes most likely.

        Parameters
        ----------
        leaks : mapping of int to mapping of str to ndarray of bool
            By client and number of leaked updates, as of `choose_leaks`.
        leaked : str
            Which number.
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
    """Estimated sums of n draws, each column divided by its norm: (n, J, d + 1)."""

    leaked: str
    client: Ints
    draw: Ints
    columns: Floats

    def rows(self, scores: Floats, kept: Bools | slice = slice(None)) -> pd.DataFrame:
        """Return scores (n, C) of some draws as a table, as `leaked_updates.score_leaks` does."""
        return pd.DataFrame(
            {"client": self.client[kept], "leaked": self.leaked, "draw": self.draw[kept]}
            | score_columns(scores)
        )


class CorrelationDiscriminant:
    """Diagonal linear discriminant on the correlations of all columns of estimated sums.

    It takes them for independent (Bickel and Levina, 2004): with far more numbers than speakers
    that does better than estimating how they covary, or than choosing among them. Log-odds are
    divided by the count of numbers: they rank, but claim less than they know.

    Parameters
    ----------
    known : EstimatedSums
        Of the adversary's own speakers.
    labels, groups : ndarray of int64, shape (n,)
        Class and group of each; groups can be left out of what is learned.
    classes : int
        How many there are, should one of them not be known.
    """

    def __init__(self, known: EstimatedSums, labels: Ints, groups: Ints, classes: int) -> None:
        side, self._classes = known.columns.shape[2], classes
        stacked = known.columns.reshape(-1, side)
        # Variances of what is all but constant would drown in the rounding of its square.
        self._centre = stacked.T @ stacked / np.float32(len(labels))
        self._moments = {
            (g, c): (0, np.zeros((side, side), np.float32), np.zeros((side, side), np.float32))
            for g in np.unique(groups).tolist()
            for c in range(self._classes)
        }
        for one, label, group in zip(known.columns, labels.tolist(), groups.tolist(), strict=True):
            count, total, squares = self._moments[group, label]
            found = one.T @ one - self._centre
            total += found
            squares += np.square(found, out=found)
            self._moments[group, label] = count + 1, total, squares

    def score(self, estimates: Floats, without: int | None = None) -> Floats:
        """Return log-probabilities (n, C) of sums (n, J, d + 1), as if a group were unknown."""
        means, variances = [], []
        for label in range(self._classes):
            known = [m for (g, c), m in self._moments.items() if c == label and g != without]
            count = max(1, sum(n for n, _, _ in known))
            means.append(np.sum([total for _, total, _ in known], axis=0) / count)
            squares = np.sum([square for _, _, square in known], axis=0) / count
            variances.append(squares - np.square(means[-1]))
        variance = np.mean(variances, axis=0)
        precision = np.where(variance > FLAT, 1 / np.maximum(variance, FLAT), 0) / variance.size
        scores = []
        for mean in means:
            weights = (mean * precision).astype(np.float32)
            offset = float(((mean / 2 + self._centre) * mean * precision).sum())
            scores.append(np.einsum("njd,njd->n", estimates @ weights, estimates) - offset)
        return np.asarray(log_softmax(np.stack(scores, axis=1), axis=1), dtype=np.float32)


class FeatureMap:
    """What a client's data is summed up by; made from the adversary's own speakers.

    Attributes
    ----------
    sums : ndarray of float32, shape (A, J, d + 1)
        Of each of the cast.
    prior : ndarray, shape (J, J)
        Their second moment.
    """

    def __init__(self, cast: ShadowClients, components: int) -> None:
        features = _cut(unpad(cast.examples.features.numpy()))
        self._centre = features.mean(axis=0)
        _, values, axes = np.linalg.svd(features - self._centre, full_matrices=False)
        kept = slice(min(components, int((values > 1e-6 * values[0]).sum())))
        self._axes = axes[kept].T / (values[kept] / np.sqrt(len(features)))
        self.sums = np.stack([self._sum(e) for e in cast.examples])
        second = np.einsum("ajd,aid->ji", self.sums, self.sums) / (
            len(self.sums) * self.sums.shape[2]
        )
        ridge = RIDGE * np.trace(second) / len(second) * np.eye(len(second))
        self.prior: Floats64 = second.astype(np.float64) + ridge

    def _sum(self, examples: Examples) -> Floats:
        emotions = np.eye(len(EMOTIONS), dtype=np.float32)[examples.labels.numpy()]
        features = unpad(examples.features.numpy())
        counts = frame_counts(examples.features.numpy())
        components = (_cut(features) - self._centre) @ self._axes
        phi = np.concatenate([emotions.repeat(counts, axis=0), components], axis=1)
        phi /= counts.repeat(counts)[:, None].astype(np.float32)
        ones = np.ones((len(phi), 1), dtype=np.float32)
        found = phi.T @ np.concatenate([features, ones], axis=1)
        return np.asarray(found, dtype=np.float32)

    def response(self, cast: Ints, updates: Floats) -> Floats:
        """Regress updates (a, h, d + 1) of some of the cast on their sums; returns (h, J)."""
        sums = self.sums[cast]
        across = np.einsum("ajd,aid->ji", sums, sums)
        across += RIDGE * np.trace(across) / len(across) * np.eye(len(across), dtype=np.float32)
        moved = sum(u @ s.T for u, s in zip(updates, sums, strict=True))
        return np.asarray(np.linalg.solve(across, np.asarray(moved).T).T, dtype=np.float32)


def first_layer(gradients: Mapping[str, Floats]) -> Floats:
    """Return the first layer's weight and bias gradient side by side, (k, h, d + 1).

    Raises
    ------
    UserError
        If the first layer is not among them.
    """
    own = {name: array for name, array in gradients.items() if name.startswith(f"{FIRST}.")}
    if not own:
        raise UserError("attack=snapshot reads the first layer: add it to adversary.layers")
    return next(samples(own))


def _cut(features: Floats) -> Floats:
    return np.clip(features, -OUTLIER, OUTLIER)
