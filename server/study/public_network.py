"""Train the hidden layers of an adapter on public speech."""

from typing import Final

import numpy as np
import torch
from torch.nn import functional as F

from fedser.client.corpora.base import EMOTIONS
from fedser.client.models.base import initial_arrays, load_arrays, to_arrays
from fedser.client.models.mlp import Mlp
from fedser.common.arrays import Arrays, Floats, Floats64, Ints

EPOCHS: Final = 5
BATCH_SIZE: Final = 64
LEARNING_RATE: Final = 5e-4
WEIGHT_DECAY: Final = 1e-4
DROPOUT: Final = 0.2
"""Adam and dropout are those of the 2022 study. The number of epochs was chosen on nEMO, RAVDESS
and EmoDB, each in turn as the private corpus: longer training fits the public corpora, and leaves
less for others."""


def train_hidden_layers(
    features: Floats, labels: Ints, weights: Floats64, hidden: list[int], seed: int
) -> Arrays:
    """Return the hidden layers of a network that recognises emotions in public speech.

    Parameters
    ----------
    features : ndarray of float32, shape (n, d)
    labels : ndarray of int64, shape (n,)
    weights : ndarray of float64, shape (n,)
        Weight of each utterance.
    hidden : list of int
        Number of units of each hidden layer.

    Returns
    -------
    dict of str to ndarray
        ``hidden.0.weight``, ``hidden.0.bias``, ...
    """
    config = Mlp(hidden, DROPOUT)
    network = config.network(features.shape[1], len(EMOTIONS))
    load_arrays(network, initial_arrays(config, features.shape[1], len(EMOTIONS), seed))
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.from_numpy(features), torch.from_numpy(labels)
    scale = torch.from_numpy((weights / weights.mean()).astype(np.float32))
    optimiser = torch.optim.Adam(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def kept(layer: int, units: torch.Tensor) -> torch.Tensor:
        return (torch.rand(units.shape, generator=generator) >= DROPOUT) / (1 - DROPOUT)

    for _ in range(EPOCHS):
        order = torch.randperm(len(y), generator=generator)
        for first in range(0, len(y), BATCH_SIZE):
            batch = order[first : first + BATCH_SIZE]
            optimiser.zero_grad()
            losses = F.cross_entropy(network(x[batch], kept), y[batch], reduction="none")
            (losses * scale[batch]).mean().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    trained = to_arrays(network)
    return {
        f"hidden.{number}.{kind}": trained[f"dense.{number}.{kind}"]
        for number in range(len(hidden))
        for kind in ("weight", "bias")
    }
