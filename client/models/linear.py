"""A softmax layer on a few coordinates that were learned from public speech."""

from dataclasses import dataclass
from typing import ClassVar

from fedser.client.models.base import ModelConfig
from fedser.client.models.mlp import Perceptron
from fedser.common.errors import UserError


@dataclass
class Linear(ModelConfig):
    """Softmax regression on the public projection: the only layer that clients train.

    Noise for a guarantee grows with the root of the number of parameters. This model has
    4 (components + 1) of them; the network of the 2022 study has 286,596.

    Attributes
    ----------
    components : int
        Coordinates k of the projection: see `client.speakers.public_model.PublicModel`.

    Raises
    ------
    UserError
        If there is no coordinate.
    """

    name: ClassVar[str] = "linear"
    reads_frames: ClassVar[bool] = False
    hidden: ClassVar[list[int]] = []
    dropout: ClassVar[float] = 0.0

    components: int = 96

    def __post_init__(self) -> None:
        """Reject a projection without coordinates."""
        if self.components < 1:
            raise UserError(f"model.components={self.components} must be at least 1")

    def network(self, inputs: int, classes: int) -> Perceptron:
        """Return the network for vectors of `inputs` coordinates."""
        return Perceptron([inputs, classes], self.dropout)
