"""A softmax layer on the last hidden units of a network that was trained on public speech."""

from dataclasses import dataclass
from typing import ClassVar

from fedser.client.models.linear import Linear
from fedser.common.errors import UserError


@dataclass
class Adapter(Linear):
    """The last layer of a public network: the only layer that clients train.

    The hidden layers stay as public speech has made them. Their last units are projected to a few
    coordinates, as the features are for `Linear`, and the softmax layer reads these.

    Attributes
    ----------
    components : int
        Coordinates k of the projection of the hidden units.
    public_hidden : tuple of int
        Number of units of each hidden layer of the public network.

    Raises
    ------
    UserError
        If there is no hidden layer, or no unit or coordinate.
    """

    name: ClassVar[str] = "adapter"

    components: int = 64
    public_hidden: tuple[int, ...] = (256, 128)

    def __post_init__(self) -> None:
        """Reject a network without hidden units."""
        super().__post_init__()
        self.public_hidden = tuple(self.public_hidden)  # YAML and JSON have lists
        if not self.public_hidden or min(self.public_hidden) < 1:
            raise UserError(
                f"model.public_hidden={list(self.public_hidden)} must name 1 unit or more"
            )
