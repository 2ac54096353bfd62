"""A recogniser with self-attention, which reads an utterance as a sequence of frames."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import nn

from fedser.client.models.base import Masks, ModelConfig, Recogniser
from fedser.common.errors import UserError


@dataclass
class Attention(ModelConfig):
    """Layers on each frame, additive self-attention over time, and layers on the weighted mean.

    Frame t with hidden units h_t gets the score v . tanh(W h_t + b). The softmax of the scores over
    the frames of an utterance gives the weights of their mean. This is the single-hop case of Lin
    et al. (2017, arXiv:1703.03130), used as pooling for emotion recognition by Mirsamadi, Barsoum
    and Zhang (2017). Scores have no bias, because the softmax would cancel it.

    Attributes
    ----------
    frame_units : list of int
        Number of units of each layer on frames.
    attention_units : int
        Length of v and b.
    hidden : list of int
        Number of units of each layer on the weighted mean.
    dropout : float
        Share of units dropped during training, in the layers on frames and on the mean.

    Raises
    ------
    UserError
        If there is no layer on frames, or a layer has no unit.
    """

    name: ClassVar[str] = "attention"
    reads_frames: ClassVar[bool] = True

    frame_units: list[int] = field(default_factory=lambda: [256, 128])
    attention_units: int = 64
    hidden: list[int] = field(default_factory=lambda: [128])
    dropout: float = 0.2

    def __post_init__(self) -> None:
        """Reject sizes without a layer on frames or with an empty layer."""
        if not self.frame_units or min(*self.frame_units, *self.hidden, self.attention_units) < 1:
            raise UserError(
                f"model.frame_units={self.frame_units}, attention_units={self.attention_units}, "
                f"hidden={self.hidden}: every size must be at least 1, and frame_units "
                "must not be empty"
            )

    def network(self, inputs: int, classes: int) -> Recogniser:
        """Return the network for frames of `inputs` features."""
        return Attentive(self, inputs, classes)


class Attentive(Recogniser):
    """Network from padded frames (n, T, inputs) to class scores; padding is NaN.

    The order of its layers: layers on frames, W and v of the attention, layers on the mean.
    """

    def __init__(self, config: Attention, inputs: int, classes: int) -> None:
        last = config.frame_units[-1]
        layers = [nn.Linear(n, m) for n, m in pairwise([inputs, *config.frame_units])]
        layers += [nn.Linear(last, config.attention_units)]
        layers += [nn.Linear(config.attention_units, 1, bias=False)]
        layers += [nn.Linear(n, m) for n, m in pairwise([last, *config.hidden, classes])]
        super().__init__(layers, [*config.frame_units, *config.hidden], config.dropout)
        self._over_frames = len(config.frame_units)

    def forward(self, x: torch.Tensor, masks: Masks | None = None) -> torch.Tensor:
        """Return class scores of shape (n, classes)."""
        padding = x[:, :, 0].isnan()
        x = x.masked_fill(padding[:, :, None], 0)
        count = self._over_frames
        for number, layer in enumerate(self.dense[:count]):
            x = self.activate(number, layer(x), masks)
        query, score = self.dense[count : count + 2]
        scores = score(torch.tanh(query(x)))[:, :, 0].masked_fill(padding, -torch.inf)
        x = (scores.softmax(dim=1)[:, None] @ x)[:, 0]
        for number, layer in enumerate(self.dense[count + 2 : -1], count):
            x = self.activate(number, layer(x), masks)
        class_scores: torch.Tensor = self.dense[-1](x)
        return class_scores
