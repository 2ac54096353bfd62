"""The keys of ``conf/algorithm`` and of ``transcript``."""

from dataclasses import dataclass


@dataclass
class AlgorithmConfig:
    """Keys of ``conf/algorithm``.

    Attributes
    ----------
    name : str
        ``fedavg`` or ``fedsgd``.
    server_learning_rate : float
        Step along the mean update (FedAvg: 1) or against the mean gradient (FedSGD).
    """

    name: str
    server_learning_rate: float

    @property
    def server_step(self) -> float:
        """Factor on the mean of what clients send."""
        return -self.server_learning_rate if self.name == "fedsgd" else self.server_learning_rate


@dataclass
class TranscriptConfig:
    """What is recorded.

    Attributes
    ----------
    layers : str
        ``first``, ``second``, ``last``, ``all`` or names of layers such as ``dense.0``,
        separated by commas: weights and biases of each.
    dtype : str
        ``float16`` or ``float32``.
    store : str
        ``updates``, or ``features``: of the private federations' updates only what the attacks
        read of these layers, while training goes on. Shadow federations keep theirs.
    """

    layers: str = "first"
    dtype: str = "float16"
    store: str = "updates"
