"""What all emotion recognisers have in common, and their parameters as plain arrays."""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from fedser.common.arrays import Arrays

Masks = Callable[[int, torch.Tensor], torch.Tensor]
"""Number and outputs (n, width) of a hidden layer to what dropout multiplies these by."""


class Recogniser(nn.Module):
    """Network from utterances to class scores; all its parameters are those of linear layers.

    Attributes
    ----------
    dense : ModuleList of Linear
        In the order in which an utterance passes them; the last one gives the scores.
    hidden : list of int
        Units of each layer that dropout falls on.
    dropout : float
        Share of these dropped during training.
    """

    def __init__(self, layers: Sequence[nn.Linear], hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.dense = nn.ModuleList(layers)
        self.hidden, self.dropout = list(hidden), dropout

    def forward(self, x: torch.Tensor, masks: Masks | None = None) -> torch.Tensor:
        """Return class scores of shape (n, classes) for the features of n utterances.

        Dropout is on when `masks` are given.
        """
        raise NotImplementedError

    def activate(self, number: int, x: torch.Tensor, masks: Masks | None) -> torch.Tensor:
        """Return ReLU and dropout of a hidden layer's outputs, (n, width) or (n, T, width).

        All T frames of an utterance lose the same units (Gal and Ghahramani, 2016).
        """
        x = F.relu(x)
        if masks is None or self.dropout == 0:
            return x
        return x * masks(number, x) if x.ndim == 2 else x * masks(number, x[:, 0])[:, None]


class ModelConfig:
    """Keys of ``conf/model``: a dataclass a kind of network, told apart by their fields."""

    name: ClassVar[str]
    reads_frames: ClassVar[bool]
    """Whether an utterance is a sequence of frames (T, d), or one vector (d,)."""
    dropout: float

    def network(self, inputs: int, classes: int) -> Recogniser:
        """Return the network for `inputs` features."""
        raise NotImplementedError


def parameter_sizes(config: ModelConfig, inputs: int, classes: int) -> dict[str, int]:
    """Return the number of coordinates of each parameter, in the order of the network."""
    return {name: math.prod(shape) for name, shape in _shapes(config, inputs, classes).items()}


def initial_arrays(config: ModelConfig, inputs: int, classes: int, seed: int) -> Arrays:
    """Return freshly drawn parameters (PyTorch's default initialisation of `nn.Linear`)."""
    generator = torch.Generator().manual_seed(seed)  # threads share PyTorch's own
    arrays, bound = Arrays(), 0.0
    for name, shape in _shapes(config, inputs, classes).items():
        array = torch.empty(shape)
        if name.endswith("weight"):
            nn.init.kaiming_uniform_(array, math.sqrt(5), generator=generator)
            bound = 1 / math.sqrt(shape[1])  # of the bias that follows
        else:
            nn.init.uniform_(array, -bound, bound, generator)
        arrays[name] = array.numpy()
    return arrays


def _shapes(config: ModelConfig, inputs: int, classes: int) -> dict[str, torch.Size]:
    with torch.device("meta"):  # nothing is drawn or stored
        network = config.network(inputs, classes)
    return {name: parameter.shape for name, parameter in network.named_parameters()}


def in_order(arrays: Arrays) -> Arrays:
    """Return a recogniser's parameters layer by layer, weight before bias where there is one."""
    layers = sorted(
        {name.rpartition(".")[0] for name in arrays}, key=lambda n: int(n.split(".")[1])
    )
    names = (n for layer in layers for n in (f"{layer}.weight", f"{layer}.bias"))
    return {n: arrays[n] for n in names if n in arrays}


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
