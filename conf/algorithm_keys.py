"""The keys of ``conf/algorithm`` and of ``transcript``."""

from dataclasses import dataclass


@dataclass
class AlgorithmConfig:
    """Keys of ``conf/algorithm``.

    Attributes
    ----------
    name : str
        ``fedavg`` or ``fedsgd``.
    server_learning_rate : float or None
        Step along the mean update (FedAvg: 1), or against the mean gradient (FedSGD). None: as
        large as the noise of the mechanism allows, for models on public coordinates.
    """

    name: str
    server_learning_rate: float | None

    @property
    def server_step(self) -> float:
        """Factor on the mean of the clients' updates (FedAvg) or gradients (FedSGD)."""
        assert self.server_learning_rate is not None  # the protocol of a federation has a number
        return -self.server_learning_rate if self.name == "fedsgd" else self.server_learning_rate


@dataclass
class TranscriptConfig:
    """Keys of ``transcript``: the part of each update that is recorded.

    Attributes
    ----------
    layers : str
        ``first``, ``second``, ``last``, ``all``, or names of layers such as ``dense.0``,
        separated by commas. Weights and biases of each layer are recorded.
    dtype : str
        ``float16`` or ``float32``.
    store : str
        ``updates``: keep the updates. ``features``: keep only the features that the attacks
        compute from them during training. Shadow federations always keep their updates.
    """

    layers: str = "first"
    dtype: str = "float16"
    store: str = "updates"
