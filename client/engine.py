"""Local training of a node's clients: stacked, or one by one."""

from collections.abc import Sequence

from client.canary import canary_update
from client.dataset import Dataset
from client.draws import Draws
from client.mechanism import Arrays, GradientClip, NoiseSource
from client.model import ModelConfig
from client.privacy import Mechanism
from client.stacked import Stack
from client.training import TrainingConfig, fedavg_update, fedsgd_gradient

ENGINES = ("stacked", "loop")

TRAINERS = {"fedavg": fedavg_update, "fedsgd": fedsgd_gradient, "canary": canary_update}
"""What a client computes, by algorithm."""


class Training:
    """k clients about to train from the same weights, any of them at a time.

    They are stacked where `config.engine` says so, unless each utterance's gradient is clipped,
    or they are canaries.

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

    def __init__(
        self,
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
    ) -> None:
        self._trainer, self._clients, self._draws = TRAINERS[algorithm], clients, draws
        self._model, self._start, self._data, self._config = model, start, data, config
        self._clip, self._noises, self._into = clip, noises, into
        self._stack = None
        bound = clip.norm if clip and clip.per == "batch" else None
        if config.engine == "stacked" and algorithm != "canary" and (clip is None or bound):
            self._stack = Stack(algorithm, start, data, clients, config, draws, bound, into)

    def train(self, chunk: slice) -> list[float]:
        """Train some of the clients, and return the loss of each."""
        if self._stack:
            return self._stack.train(chunk)
        return [self._train_one(row) for row in range(len(self._clients))[chunk]]

    def _train_one(self, row: int) -> float:
        draws = Draws(self._draws.keys[row : row + 1], self._draws.dropout)
        update, loss = self._trainer(
            self._model,
            self._start,
            self._data[self._clients[row]],
            self._config,
            draws,
            self._clip,
            self._noises[row],
        )
        for name, array in update.items():
            self._into[name][row] = array
        return loss


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
