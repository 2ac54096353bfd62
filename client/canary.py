"""Canary clients: what the audit puts in place of training."""

import numpy as np
import numpy.typing as npt

from client.dataset import Examples
from client.draws import Draws
from client.mechanism import Arrays, GradientClip, NoiseSource
from client.model import ModelConfig
from client.training_config import TrainingConfig


def canary_update(
    model_config: ModelConfig,
    start: Arrays,
    examples: Examples,
    config: TrainingConfig,
    draws: Draws,
    clip: GradientClip | None,
    noise: NoiseSource,
) -> tuple[Arrays, float]:
    """Return a part of the global model, or its negative where the client's label is 0.

    The audit sends the directions it looks for as the model, and a canary's two features say
    which of how many parts is its own. From here on a canary's update takes the way of every
    other: the mechanism, serialisation, the server and its tap.
    """
    part, parts = (int(feature) for feature in examples.features[0])
    flat = flatten(start)
    own = part_of(flat, part, parts)
    sent = np.zeros_like(flat)
    sent[own] = flat[own] if int(examples.labels[0]) else -flat[own]
    return unflatten(sent, start), 0.0


def part_of(flat: npt.NDArray[np.floating], part: int, parts: int) -> npt.NDArray[np.int64]:
    """Return the positions of one of `parts` equal parts of the entries that are not zero."""
    positions = np.flatnonzero(flat)
    return positions[len(positions) * part // parts : len(positions) * (part + 1) // parts]


def flatten(arrays: Arrays) -> npt.NDArray[np.float32]:
    """Join arrays into one vector."""
    return np.concatenate([array.ravel() for array in arrays.values()])


def unflatten(flat: npt.NDArray[np.floating], like: Arrays) -> Arrays:
    """Cut a vector into arrays of the names and shapes of `like`."""
    cuts = np.cumsum([array.size for array in like.values()])[:-1]
    return {
        name: piece.reshape(array.shape).astype(np.float32)
        for (name, array), piece in zip(like.items(), np.split(flat, cuts), strict=True)
    }
