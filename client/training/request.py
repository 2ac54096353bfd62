"""The request in a training message, as one JSON text."""

import json
from dataclasses import asdict, dataclass

from fedser.client.models.adapter import Adapter
from fedser.client.models.attention import Attention
from fedser.client.models.base import ModelConfig
from fedser.client.models.linear import Linear
from fedser.client.models.mlp import Mlp
from fedser.client.privacy.base import Mechanism
from fedser.client.privacy.mechanisms import build_mechanism, target_of
from fedser.common.errors import check_choice
from fedser.conf.training_keys import TrainingConfig


@dataclass(frozen=True)
class Hosting:
    """The part of a federation that a node with its own data hosts.

    Attributes
    ----------
    clients : tuple of (int, str, int)
        Each client of the node: its number in the federation, its speaker, the speaker's shard.
    test : tuple of str
        Speakers that no client trains on; the node evaluates the model on them.
    normalisation : str
        ``speaker`` or ``none``.
    """

    clients: tuple[tuple[int, str, int], ...]
    test: tuple[str, ...]
    normalisation: str


MODELS: dict[str, type[ModelConfig]] = {m.name: m for m in (Mlp, Linear, Adapter, Attention)}
"""The models that a message can name. A name outside this table is rejected, never imported."""


@dataclass(frozen=True)
class TrainRequest:
    """All that a node needs for a round, except the weights of the model.

    Attributes
    ----------
    federation : str
        Names the random streams, together with `seed`, `round` and the client.
    seed : int
        Seed of the clients' shards, orders and dropout masks, but of no noise.
    clients : tuple of int
        Numbers of the clients to train.
    dataset : str or None
        File with the clients' data, for a worker of a simulation. A worker on another machine
        looks for the file's name in its own folder. None if the nodes hold their own data.
    device : str
        ``cpu`` or ``cuda``.
    algorithm : str
        ``fedavg``, ``fedsgd`` or ``canary``.
    mechanism : Mechanism
        Applied to each update before it is sent.
    noise_seed : int or None
        Seed of reproducible noise in a simulation; None: noise from the device's own entropy.
        A node with its own data ignores it.
    attempt : int
        Number of earlier attempts at this round; each attempt has its own noise.
    hosting : Hosting or None
        For a node with its own data: the part of the federation that it hosts. The node also
        evaluates the model that it receives.
    """

    federation: str
    round: int
    seed: int
    clients: tuple[int, ...]
    dataset: str | None
    device: str
    algorithm: str
    model: ModelConfig
    training: TrainingConfig
    mechanism: Mechanism
    noise_seed: int | None = None
    attempt: int = 0
    hosting: Hosting | None = None

    def to_json(self) -> str:
        """Return the request as JSON; `from_json` returns an equal request."""
        fields = asdict(self)
        fields["mechanism"]["_target_"] = target_of(self.mechanism)
        fields["model"]["name"] = self.model.name
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str, custom: bool = True) -> "TrainRequest":
        """Read a request.

        Parameters
        ----------
        custom : bool
            Whether to import a mechanism of the user (``privacy.custom``).

        Raises
        ------
        UserError
            If the model is not in `MODELS`.
        ValueError, KeyError, TypeError
            If the text is no request.
        """
        fields = json.loads(text)
        if (hosting := fields["hosting"]) is not None:
            clients = tuple((number, who, shard) for number, who, shard in hosting["clients"])
            fields["hosting"] = Hosting(clients, tuple(hosting["test"]), hosting["normalisation"])
        mechanism = build_mechanism(fields["mechanism"], custom)
        model_name = fields["model"].pop("name")
        check_choice("model.name", model_name, MODELS)
        return cls(
            **{
                **fields,
                "clients": tuple(fields["clients"]),
                "model": MODELS[model_name](**fields["model"]),
                "training": TrainingConfig(**fields["training"]),
                "mechanism": mechanism,
            }
        )
