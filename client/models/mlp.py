"""The recogniser of the 2022 study: it reads one vector per utterance."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import nn

from fedser.client.models.base import Masks, ModelConfig, Recogniser


@dataclass
class Mlp(ModelConfig):
    """Multilayer perceptron of Feng, Peri and Narayanan (Interspeech 2022).

    Attributes
    ----------
    hidden : list of int
        Number of units of each hidden layer.
    dropout : float
        Share of hidden units dropped during training.
    """

    name: ClassVar[str] = "mlp"
    reads_frames: ClassVar[bool] = False

    hidden: list[int] = field(default_factory=lambda: [256, 128])
    dropout: float = 0.2

    def network(self, inputs: int, classes: int) -> Recogniser:
        """Return the network for vectors of `inputs` features."""
        return Perceptron([inputs, *self.hidden, classes], self.dropout)


class Perceptron(Recogniser):
    """ReLU network from vectors (n, sizes[0]) to class scores (n, sizes[-1])."""

    def __init__(self, sizes: Sequence[int], dropout: float) -> None:
        layers = [nn.Linear(n, m) for n, m in pairwise(sizes)]
        super().__init__(layers, sizes[1:-1], dropout)

    def forward(self, x: torch.Tensor, masks: Masks | None = None) -> torch.Tensor:
        """Return class scores of shape (n, classes)."""
        for number, layer in enumerate(self.dense[:-1]):
            x = self.activate(number, layer(x), masks)
        scores: torch.Tensor = self.dense[-1](x)
        return scores
