"""Canary clients: what the audit puts in place of training."""

import torch

from client.mechanism import Arrays
from client.model import ModelConfig
from client.training import Examples, TrainingConfig


def canary_update(
    model_config: ModelConfig,
    start: Arrays,
    examples: Examples,
    config: TrainingConfig,
    generator: torch.Generator,
    gradient_clip: float | None,
) -> tuple[Arrays, float]:
    """Return the global model itself, or its negative where the client's label is 0.

    The audit sends the direction it looks for as the model. From here on a canary's update
    takes the way of every other: the mechanism, serialisation, the server and its tap.
    """
    sign = 1.0 if int(examples.labels[0]) else -1.0
    return {name: array * sign for name, array in start.items()}, 0.0
