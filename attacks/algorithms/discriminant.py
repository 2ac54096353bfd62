"""A linear discriminant on the correlations between the columns of matrices."""

import numpy as np
from scipy.special import log_softmax

from fedser.common.arrays import Floats, Ints

FLAT = 1e-8  # at or below this variance a correlation is constant, as on the diagonal


class CorrelationDiscriminant:
    """Diagonal linear discriminant on the correlations of all columns of n matrices.

    It takes the correlations for independent (Bickel and Levina, 2004). With far more correlations
    than speakers this does better than to estimate their covariance, or to select some of them.
    The log-odds are divided by the number of correlations: they rank, but are too cautious.

    Parameters
    ----------
    columns : ndarray of float32, shape (n, J, d)
        Matrices to fit to. Each column has norm 1.
    labels, groups : ndarray of int64, shape (n,)
        Class and group of each. `score` can leave out one group.
    classes : int
        Number of classes, some of which may have no matrix.
    """

    def __init__(self, columns: Floats, labels: Ints, groups: Ints, classes: int) -> None:
        side, self._classes = columns.shape[2], classes
        stacked = columns.reshape(-1, side)
        # Without this shift the variance of a nearly constant number would be lost in rounding.
        self._centre = stacked.T @ stacked / np.float32(len(labels))
        self._moments = {
            (g, c): (0, np.zeros((side, side), np.float32), np.zeros((side, side), np.float32))
            for g in np.unique(groups).tolist()
            for c in range(self._classes)
        }
        for one, label, group in zip(columns, labels.tolist(), groups.tolist(), strict=True):
            count, total, squares = self._moments[group, label]
            found = one.T @ one - self._centre
            total += found
            squares += np.square(found, out=found)
            self._moments[group, label] = count + 1, total, squares

    def score(self, columns: Floats, without: int | None = None) -> Floats:
        """Return log-probabilities (n, C) of matrices (n, J, d).

        Parameters
        ----------
        without : int, optional
            Group to leave out, as if the discriminant had been fitted without it.
        """
        means, variances = [], []
        for label in range(self._classes):
            fitted = [m for (g, c), m in self._moments.items() if c == label and g != without]
            count = max(1, sum(n for n, _, _ in fitted))
            means.append(np.sum([total for _, total, _ in fitted], axis=0) / count)
            squares = np.sum([square for _, _, square in fitted], axis=0) / count
            variances.append(squares - np.square(means[-1]))
        variance = np.mean(variances, axis=0)
        precision = np.where(variance > FLAT, 1 / np.maximum(variance, FLAT), 0) / variance.size
        scores = []
        for mean in means:
            weights = (mean * precision).astype(np.float32)
            offset = float(((mean / 2 + self._centre) * mean * precision).sum())
            scores.append(np.einsum("njd,njd->n", columns @ weights, columns) - offset)
        return np.asarray(log_softmax(np.stack(scores, axis=1), axis=1), dtype=np.float32)
