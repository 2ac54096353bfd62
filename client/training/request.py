"""What a training message asks of a node, as one JSON text."""

import json
from dataclasses import asdict, dataclass

from fedser.client.models.attention import Attention
from fedser.client.models.base import ModelConfig
from fedser.client.models.mlp import Mlp
from fedser.client.privacy.base import Mechanism
from fedser.client.privacy.mechanisms import build_mechanism, target_of
from fedser.conf.training_keys import TrainingConfig


@dataclass(frozen=True)
class Hosting:
    """What a node does for a federation.

    Attributes
    ----------
    clients : tuple of (int, str, int)
        Each client that it trains: its number in the federation, its speaker, which of the
        speaker's shards.
    test : tuple of str
        Speakers on whom it evaluates the model, and who train nowhere.
    normalisation : str
        ``speaker`` or ``none``.
    """

    clients: tuple[tuple[int, str, int], ...]
    test: tuple[str, ...]
    normalisation: str


MODELS: dict[str, type[Mlp | Attention]] = {m.name: m for m in (Mlp, Attention)}


@dataclass(frozen=True)
class TrainRequest:
    """Everything but the model.

    Attributes
    ----------
    federation : str
        Names the random streams, together with `seed`, `round` and the client.
    seed : int
        Of the clients' shards, orders and dropout masks. No noise follows from it.
    clients : tuple of int
        Partition ids of the clients to train.
    dataset : str or None
        File from which a simulation's worker reads its clients; a worker on another machine has
        one of that name in a folder of its own. None where nodes hold data of their own.
    device : str
        ``cpu`` or ``cuda``.
    algorithm : str
        ``fedavg`` or ``fedsgd``.
    mechanism : Mechanism
        Applied to each update before it is sent.
    noise_seed : int or None
        Seed of reproducible noise in a simulation; None: noise from the device's own entropy. A
        node that holds data of its own ignores it.
    attempt : int
        How often this round was begun before; each attempt has its own noise.
    hosting : Hosting or None
        What a node that holds data of its own does for the federation; it also evaluates the
        model that it starts from.
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
        """Serialise; `from_json` gives an equal request back."""
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
        ValueError, KeyError, TypeError
            If the text is not one.
        """
        fields = json.loads(text)
        if (hosting := fields["hosting"]) is not None:
            clients = tuple((number, who, shard) for number, who, shard in hosting["clients"])
            fields["hosting"] = Hosting(clients, tuple(hosting["test"]), hosting["normalisation"])
        mechanism = build_mechanism(fields["mechanism"], custom)
        model = MODELS[fields["model"].pop("name")](**fields["model"])
        return cls(
            **{
                **fields,
                "clients": tuple(fields["clients"]),
                "model": model,
                "training": TrainingConfig(**fields["training"]),
                "mechanism": mechanism,
            }
        )
