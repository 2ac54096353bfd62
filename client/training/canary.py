"""Canary clients: what the audit puts in place of training."""

import numpy as np
import numpy.typing as npt

from fedser.client.models.base import ModelConfig
from fedser.client.privacy.noise import GradientClip
from fedser.client.training.dataset import Examples
from fedser.client.training.draws import Draws
from fedser.common.arrays import Arrays, flatten, unflatten
from fedser.common.seeds import NoiseSource
from fedser.conf.training_keys import TrainingConfig


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
