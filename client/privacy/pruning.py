"""Pruning: in most rounds clients send only some coordinates of their updates.

The coordinates are the same for all clients, and everybody knows them: so sums need no more than
the values, and no client's choice leaves its device.
"""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fedser.common.arrays import Arrays, Bools, Floats

Kind = TypeVar("Kind", bound=np.generic)

Support = Mapping[str, Bools]
"""Coordinates that are sent: for each parameter a mask (size,) of its flat coordinates."""


def largest(mean: Arrays, kept: float) -> Support:
    """Return the share `kept` of all coordinates that are largest in magnitude, at least one.

    Of equal magnitudes the first in the order of `in_one_order` counts as larger.
    """
    one = {name: array.reshape(1, -1) for name, array in mean.items()}
    magnitudes = np.abs(in_one_order(one)[0])
    chosen = np.zeros(len(magnitudes), np.bool_)
    count = max(1, round(kept * len(magnitudes)))
    chosen[np.argsort(-magnitudes, kind="stable")[:count]] = True
    return {name: mask[0] for name, mask in by_parameter(chosen[None], one).items()}


def gather(updates: Arrays, support: Support | None) -> Arrays:
    """Return the coordinates that are sent of k updates (k, ...): (k, m) for each parameter."""
    flat = {name: array.reshape(len(array), -1) for name, array in updates.items()}
    return flat if support is None else {n: array[:, support[n]] for n, array in flat.items()}


def scatter(sent: Arrays, support: Support | None, like: Arrays) -> Arrays:
    """Return k updates (k, ...) of the shapes of `like`; coordinates that were not sent are 0."""
    if support is None:
        return {n: sent[n].reshape(len(sent[n]), *array.shape) for n, array in like.items()}
    updates = {}
    for name, array in like.items():
        flat = np.zeros((len(sent[name]), array.size), np.float32)
        flat[:, support[name]] = sent[name]
        updates[name] = flat.reshape(len(flat), *array.shape)
    return updates


def in_one_order(sent: Arrays) -> Floats:
    """Return the coordinates (k, m) of all parameters side by side, sorted by their names."""
    return np.concatenate([sent[name] for name in sorted(sent)], axis=1)


def by_parameter(values: npt.NDArray[Kind], like: Arrays) -> dict[str, npt.NDArray[Kind]]:
    """Cut values (k, d) in the order of `in_one_order` into parameters of the sizes of `like`."""
    names = sorted(like)
    ends = np.cumsum([like[name].shape[1] for name in names])[:-1]
    return dict(zip(names, np.split(values, ends, axis=1), strict=True))


def packed(support: Support) -> dict[str, npt.NDArray[np.uint8]]:
    """Return the masks for a message, eight coordinates per byte."""
    return {name: np.packbits(mask) for name, mask in support.items()}


def unpacked(sent: Mapping[str, npt.NDArray[np.generic]], updates: Arrays) -> Support:
    """Return the masks of a message for k updates (k, ...)."""
    return {
        name: np.unpackbits(sent[name].view(np.uint8), count=array[0].size).astype(np.bool_)
        for name, array in updates.items()
    }
