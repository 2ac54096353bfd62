"""Parameters and updates as arrays by name."""

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Floats64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Arrays = dict[str, npt.NDArray[np.float32]]
"""Parameters or an update by parameter name, in the order of the network."""


def l2_norm(update: Arrays) -> float:
    """Return the L2 norm over all arrays of an update together."""
    return math.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in update.values()))


def flatten(arrays: Arrays) -> npt.NDArray[np.float32]:
    """Concatenate arrays into one vector."""
    return np.concatenate([array.ravel() for array in arrays.values()])


def unflatten(flat: npt.NDArray[np.floating], like: Arrays) -> Arrays:
    """Cut a vector into arrays with the names and shapes of `like`."""
    cuts = np.cumsum([array.size for array in like.values()])[:-1]
    return {
        name: piece.reshape(array.shape).astype(np.float32)
        for (name, array), piece in zip(like.items(), np.split(flat, cuts), strict=True)
    }
