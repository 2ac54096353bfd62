"""From transcripts to the numbers an attack works on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from client.errors import UserError
from client.training import TrainingConfig
from server.transcript import Releases, Transcript, TranscriptMeta

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Attack(Protocol):
    """Infers an attribute of a speaker from updates of their client.

    `features` is computed on every update alike; `fit` sees those of the adversary's own
    shadow clients, whose attributes it knows; `score` judges the victims'.
    """

    name: str

    def features(self, gradients: Mapping[str, Floats]) -> Floats:
        """Return (k, p) numbers for k pseudo-gradients."""
        ...

    def fit(self, features: Floats, labels: Ints) -> None:
        """Learn from (n, p) numbers and (n,) labels, 0 or 1. `features` may be overwritten."""
        ...

    def score(self, features: Floats) -> Floats:
        """Return the log-odds (n,) that each update's label is 1."""
        ...


@dataclass(frozen=True)
class Examples:
    """n updates as an attack sees them: numbers (n, p), client (n,) and round (n,)."""

    features: Floats
    client: Ints
    round: Ints


def tap(transcript: Transcript, attacks: Sequence[Attack]) -> Iterator[dict[str, Examples]]:
    """Compute every attack's numbers in one pass, and yield them a chunk at a time.

    Raises
    ------
    UserError
        If the transcript holds no update.
    """
    empty = True
    for releases in transcript:
        gradients = pseudo_gradients(transcript.meta, releases)
        yield {
            attack.name: Examples(attack.features(gradients), releases.client, releases.round)
            for attack in attacks
        }
        empty = False
    if empty:
        raise UserError(
            f"the transcript of {transcript.meta.federation} holds no update: nothing to attack"
        )


def pseudo_gradients(meta: TranscriptMeta, releases: Releases) -> dict[str, Floats]:
    """Turn updates into what one step at learning rate 1 would have been.

    A FedAvg update is divided by minus the learning rate times the client's steps, which the
    server can work out (Feng et al., 2021); a FedSGD update is a gradient already.
    """
    if meta.algorithm == "fedsgd":
        return releases.arrays
    training = TrainingConfig(**meta.training)  # type: ignore[arg-type]
    steps = np.array([training.steps(n) for n in releases.num_examples.tolist()])
    factor = (-1 / (training.learning_rate * steps)).astype(np.float32)
    return {n: a * factor.reshape(-1, *[1] * (a.ndim - 1)) for n, a in releases.arrays.items()}


def first_weight(gradients: Mapping[str, Floats]) -> tuple[Floats, Floats]:
    """Return the first recorded layer's weight gradient (k, h, d) and bias gradient (k, h)."""
    weight = next(name for name in gradients if name.endswith("weight"))
    return gradients[weight], gradients[weight.removesuffix("weight") + "bias"]
