"""What local training needs to know, in one object."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from fedser.client.models.base import ModelConfig
from fedser.client.privacy.base import Mechanism
from fedser.client.privacy.noise import GradientClip
from fedser.client.training.dataset import Dataset, Examples
from fedser.client.training.draws import Draws, client_keys
from fedser.common.arrays import Arrays
from fedser.common.seeds import NoiseSource
from fedser.conf.training_keys import TrainingConfig


@dataclass(frozen=True)
class LocalTask:
    """The training of k clients in one round, all from the same weights.

    A client's `row` is its position among the k clients, and the row of its update.

    Attributes
    ----------
    algorithm : str
        ``fedavg``, ``fedsgd`` or ``canary``.
    model : ModelConfig
    start : Arrays
        Global weights of the round.
    training : TrainingConfig
    mechanism : Mechanism
        Bounds the gradients during training, and protects the update afterwards.
    data : Dataset
        On the device that trains.
    clients : sequence of int, length k
        Number of each client in `data`.
    seed : int
    stream : sequence of str or int
        Names the random orders and dropout masks, together with `seed` and the client's number.
    noises : sequence of NoiseSource, length k
        Source of each client's noise. If the gradient of each utterance is clipped, the client's
        batches and dropout masks come from there, too.
    """

    algorithm: str
    model: ModelConfig
    start: Arrays
    training: TrainingConfig
    mechanism: Mechanism
    data: Dataset
    clients: Sequence[int]
    seed: int
    stream: Sequence[str | int]
    noises: Sequence[NoiseSource]

    @property
    def clip(self) -> GradientClip | None:
        """Bound on the gradients; None if they are not clipped."""
        return self.mechanism.gradient

    @cached_property
    def draws(self) -> Draws:
        """Random orders and dropout masks of the k clients."""
        keys = client_keys(self.seed, self.clients, "training", *self.stream)
        return Draws(keys.to(self.data.features.device), self.model.dropout)

    def examples(self, row: int) -> Examples:
        """Return the utterances of one client."""
        return self.data[self.clients[row]]
