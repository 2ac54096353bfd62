"""The emotion recogniser, and its parameters as plain arrays."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from client.mechanism import Arrays

Masks = Callable[[int, torch.Tensor], torch.Tensor]
"""Number and output of a hidden layer to what dropout multiplies that by."""


@dataclass
class ModelConfig:
    """Multilayer perceptron of Feng, Peri and Narayanan (Interspeech 2022).

    Attributes
    ----------
    hidden : list of int
        Units of each hidden layer.
    dropout : float
        Share of hidden units dropped during training.
    """

    hidden: list[int] = field(default_factory=lambda: [256, 128])
    dropout: float = 0.2


class Recogniser(nn.Module):
    """ReLU network from utterance features to class scores.

    Parameters
    ----------
    inputs, classes : int
        Feature dimension and number of classes.
    """

    def __init__(self, config: ModelConfig, inputs: int, classes: int) -> None:
        super().__init__()
        sizes = [inputs, *config.hidden, classes]
        self.dropout = config.dropout
        self.dense = nn.ModuleList(
            nn.Linear(n, m) for n, m in zip(sizes[:-1], sizes[1:], strict=True)
        )

    def forward(self, x: torch.Tensor, masks: Masks | None = None) -> torch.Tensor:
        """Return class scores of shape (n, classes) for features of shape (n, inputs).

        Dropout is on when `masks` are given.
        """
        for number, layer in enumerate(self.dense[:-1]):
            x = F.relu(layer(x))
            if masks is not None and self.dropout > 0:
                x = x * masks(number, x)
        scores: torch.Tensor = self.dense[-1](x)
        return scores


def parameter_sizes(config: ModelConfig, inputs: int, classes: int) -> dict[str, int]:
    """Return the number of coordinates of each parameter, in the order of the network."""
    with torch.device("meta"):  # nothing is drawn or stored
        model = Recogniser(config, inputs, classes)
    return {name: parameter.numel() for name, parameter in model.named_parameters()}


def initial_arrays(config: ModelConfig, inputs: int, classes: int, seed: int) -> Arrays:
    """Return freshly drawn parameters (PyTorch's default initialisation of `nn.Linear`)."""
    generator = torch.Generator().manual_seed(seed)  # threads share PyTorch's own
    sizes, arrays = [inputs, *config.hidden, classes], Arrays()
    for number, (n, m) in enumerate(pairwise(sizes)):
        weight, bias, bound = torch.empty(m, n), torch.empty(m), 1 / math.sqrt(n)
        nn.init.kaiming_uniform_(weight, math.sqrt(5), generator=generator)
        nn.init.uniform_(bias, -bound, bound, generator)
        arrays |= {f"dense.{number}.weight": weight.numpy(), f"dense.{number}.bias": bias.numpy()}
    return arrays


def in_order(arrays: Arrays) -> Arrays:
    """Return a recogniser's parameters layer by layer, weight before bias."""
    layers = sorted(
        {name.rpartition(".")[0] for name in arrays}, key=lambda n: int(n.split(".")[1])
    )
    return {n: arrays[n] for layer in layers for n in (f"{layer}.weight", f"{layer}.bias")}


def to_arrays(model: nn.Module) -> Arrays:
    """Copy a model's parameters out."""
    return {name: p.detach().cpu().numpy().copy() for name, p in model.named_parameters()}


def load_arrays(model: nn.Module, arrays: Arrays) -> None:
    """Copy parameters into a model.

    Raises
    ------
    KeyError, RuntimeError
        If a name is missing or a shape differs.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # PyTorch takes no array that is read-only.
            parameter.copy_(torch.from_numpy(np.require(arrays[name], requirements="W")))
