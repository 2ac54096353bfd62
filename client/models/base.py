"""The base classes of emotion recognisers, and their parameters as arrays."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from fedser.common.arrays import Arrays

Masks = Callable[[int, torch.Tensor], torch.Tensor]
"""Maps index and outputs (n, width) of a hidden layer to the factors of dropout, same shape."""


class Recogniser(nn.Module, ABC):
    """Network from utterances to class scores; only linear layers have parameters.

    Attributes
    ----------
    dense : ModuleList of Linear
        Layers in the order of computation; the last one returns the scores.
    hidden : list of int
        Number of units of each layer with dropout.
    dropout : float
        Share of units dropped during training.
    """

    def __init__(self, layers: Sequence[nn.Linear], hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.dense = nn.ModuleList(layers)
        self.hidden, self.dropout = list(hidden), dropout

    @abstractmethod
    def forward(self, x: torch.Tensor, masks: Masks | None = None) -> torch.Tensor:
        """Return class scores of shape (n, classes) for the features of n utterances.

        Dropout is applied only if `masks` is given.
        """

    def activate(self, number: int, x: torch.Tensor, masks: Masks | None) -> torch.Tensor:
        """Apply ReLU and dropout to the outputs of a hidden layer, (n, width) or (n, T, width).

        The same units are dropped in all T frames of an utterance (Gal and Ghahramani, 2016).
        """
        x = F.relu(x)
        if masks is None or self.dropout == 0:
            return x
        return x * masks(number, x) if x.ndim == 2 else x * masks(number, x[:, 0])[:, None]


class ModelConfig(ABC):
    """Keys of ``conf/model``: one dataclass per type of network, identified by its fields."""

    name: ClassVar[str]
    reads_frames: ClassVar[bool]
    """Whether an utterance is a sequence of frames (T, d); otherwise it is one vector (d,)."""

    @property
    @abstractmethod
    def dropout(self) -> float:
        """Share of units dropped during training."""

    @property
    def components(self) -> int | None:
        """Coordinates of the public projection that it reads; None: it reads the features."""
        return None

    @property
    def public_hidden(self) -> tuple[int, ...]:
        """Units of the hidden layers that are trained on public speech; empty without any."""
        return ()

    @abstractmethod
    def network(self, inputs: int, classes: int) -> Recogniser:
        """Return the network for `inputs` features."""


def parameter_sizes(config: ModelConfig, inputs: int, classes: int) -> dict[str, int]:
    """Return the number of elements of each parameter, in the order of the network."""
    return {name: math.prod(shape) for name, shape in _shapes(config, inputs, classes).items()}


def initial_arrays(config: ModelConfig, inputs: int, classes: int, seed: int) -> Arrays:
    """Draw initial parameters as `nn.Linear` of PyTorch does."""
    generator = torch.Generator().manual_seed(seed)  # not the global one, which threads share
    arrays, bound = Arrays(), 0.0
    for name, shape in _shapes(config, inputs, classes).items():
        array = torch.empty(shape)
        if name.endswith("weight"):
            nn.init.kaiming_uniform_(array, math.sqrt(5), generator=generator)
            bound = 1 / math.sqrt(shape[1])  # for the bias, which is next
        else:
            nn.init.uniform_(array, -bound, bound, generator)
        arrays[name] = array.numpy()
    return arrays


def _shapes(config: ModelConfig, inputs: int, classes: int) -> dict[str, torch.Size]:
    with torch.device("meta"):  # without random draws and memory
        network = config.network(inputs, classes)
    return {name: parameter.shape for name, parameter in network.named_parameters()}


def in_order(arrays: Arrays) -> Arrays:
    """Sort the parameters by layer, the weight of a layer before its bias, if it has one."""
    layers = sorted(
        {name.rpartition(".")[0] for name in arrays}, key=lambda n: int(n.split(".")[1])
    )
    names = (n for layer in layers for n in (f"{layer}.weight", f"{layer}.bias"))
    return {n: arrays[n] for n in names if n in arrays}


def to_arrays(model: nn.Module) -> Arrays:
    """Return copies of the parameters of a model."""
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
            # PyTorch rejects read-only arrays.
            parameter.copy_(torch.from_numpy(np.require(arrays[name], requirements="W")))
