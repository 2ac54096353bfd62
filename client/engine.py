"""Local training of a node's clients: stacked, or one by one."""

from collections.abc import Sequence

from client.canary import canary_update
from client.dataset import Dataset
from client.draws import Draws
from client.mechanism import Arrays, GradientClip, NoiseSource
from client.model import ModelConfig
from client.privacy import Mechanism
from client.stacked import train_stack
from client.training import TrainingConfig, fedavg_update, fedsgd_gradient

ENGINES = ("stacked", "loop")

TRAINERS = {"fedavg": fedavg_update, "fedsgd": fedsgd_gradient, "canary": canary_update}
"""What a client computes, by algorithm."""


def train_clients(
    algorithm: str,
    model: ModelConfig,
    start: Arrays,
    data: Dataset,
    clients: Sequence[int],
    config: TrainingConfig,
    draws: Draws,
    clip: GradientClip | None,
    noises: Sequence[NoiseSource],
    into: Arrays,
) -> list[float]:
    """Train k clients from the same weights, and return the loss of each.

    Clients are stacked where `config.engine` says so, unless each utterance's gradient is
    clipped, or the clients are canaries.

    Parameters
    ----------
    algorithm : str
        ``fedavg``, ``fedsgd`` or ``canary``.
    draws : Draws
        Of these clients.
    noises : sequence of NoiseSource
        One a client.
    into : Arrays
        Arrays of shape (k, ...) that take what each client computed.
    """
    bound = clip.norm if clip and clip.per == "batch" else None
    if config.engine == "stacked" and algorithm != "canary" and (clip is None or bound):
        return train_stack(algorithm, start, data, clients, config, draws, bound, into)
    losses = []
    for row, (client, noise) in enumerate(zip(clients, noises, strict=True)):
        own = Draws(draws.keys[row : row + 1], draws.dropout)
        update, loss = TRAINERS[algorithm](model, start, data[client], config, own, clip, noise)
        for name, array in update.items():
            into[name][row] = array
        losses.append(loss)
    return losses


def protect_clients(
    mechanism: Mechanism, updates: Arrays, sizes: Sequence[int], noises: Sequence[NoiseSource]
) -> None:
    """Put in place of k updates (k, ...) what may leave each device.

    Parameters
    ----------
    sizes, noises : sequence of int, of NoiseSource
        The number of utterances of each client, and what its noise is drawn from.
    """
    for row, (size, noise) in enumerate(zip(sizes, noises, strict=True)):
        update = {name: array[row] for name, array in updates.items()}
        for name, array in mechanism.protect(update, size, noise).items():
            if array is not update[name]:
                update[name][...] = array
