"""A recogniser of utterances as sequences of frames, which attends to some more than others."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

import torch
from torch import nn

from fedser.client.models.base import Masks, ModelConfig, Recogniser
from fedser.common.errors import UserError


@dataclass
class Attention(ModelConfig):
    """Layers over each frame, additive self-attention over time, layers over what it averages.

    Frame t with hidden units h_t gets the score v . tanh(W h_t + b), and the softmax of the
    scores over an utterance's frames weights their mean: the single-hop case of Lin et al. (2017,
    arXiv:1703.03130), as pooling for emotion recognition (Mirsamadi, Barsoum and Zhang, 2017) has
    it. There is no bias on scores: it would move all of them alike, and nothing else.

    Attributes
    ----------
    frame_units : list of int
        Units of each layer over frames.
    attention_units : int
        Units behind the scores, the length of v.
    hidden : list of int
        Units of each layer over the weighted mean.
    dropout : float
        Share of the units of layers over frames and over the mean dropped during training.

    Raises
    ------
    UserError
        If there is no layer over frames, or a layer without a unit.
    """

    name: ClassVar[str] = "attention"
    reads_frames: ClassVar[bool] = True

    frame_units: list[int] = field(default_factory=lambda: [256, 128])
    attention_units: int = 64
    hidden: list[int] = field(default_factory=lambda: [128])
    dropout: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what makes no network."""
        if not self.frame_units or min(*self.frame_units, *self.hidden, self.attention_units) < 1:
            raise UserError(
                f"model.frame_units={self.frame_units}, attention_units={self.attention_units}, "
                f"hidden={self.hidden}: each layer needs a unit, and frames at least one layer"
            )

    def network(self, inputs: int, classes: int) -> Recogniser:
        """Return the network for frames of `inputs` features."""
        return Attentive(self, inputs, classes)


class Attentive(Recogniser):
    """Network from padded frames (n, T, inputs) to class scores; frames of padding are NaN.

    Its layers are those over frames, W and v of the attention, and those over the mean.
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
        found: torch.Tensor = self.dense[-1](x)
        return found
