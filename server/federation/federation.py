"""One federated run: its clients, its protocol, and its outcome."""

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedser.client.models.base import ModelConfig
from fedser.client.speakers.clients import Clients
from fedser.client.training.request import TrainRequest
from fedser.common.arrays import Arrays, Floats, Ints
from fedser.conf.algorithm_keys import AlgorithmConfig, TranscriptConfig
from fedser.conf.training_keys import TrainingConfig
from fedser.server.federation.cohort import Sampler, cohort_sampler
from fedser.server.federation.remote_clients import RemoteClients
from fedser.server.federation.scores import ModelScores
from fedser.server.privacy.accountant import Schedule
from fedser.server.privacy.composition import Releases
from fedser.server.privacy.plan import PrivacyPlan
from fedser.server.transcript.transcript import Reader, TranscriptMeta, choose_layers

FORMAT = 5
"""Raise this number whenever the same protocol and data give another transcript."""


@dataclass(frozen=True)
class Protocol:
    """How a federation is trained, and what its transcript records."""

    model: ModelConfig
    training: TrainingConfig
    algorithm: AlgorithmConfig
    plan: PrivacyPlan
    transcript: TranscriptConfig
    seed: int

    @property
    def noise_seed(self) -> int | None:
        """Seed of reproducible noise; None if noise comes from the system's entropy."""
        return None if self.plan.config.secret_noise else self.seed

    def train_request(
        self,
        federation: str,
        algorithm: str,
        dataset: Path | None,
        device: str,
        server_round: int,
        clients: tuple[int, ...],
        attempt: int = 0,
    ) -> TrainRequest:
        """Return the request of a round for a node that trains `clients` of a federation."""
        return TrainRequest(
            federation=federation,
            round=server_round,
            seed=self.seed,
            clients=clients,
            dataset=None if dataset is None else str(dataset),
            device=device,
            algorithm=algorithm,
            model=self.model,
            training=self.training,
            mechanism=self.plan.client_mechanism(),
            noise_seed=self.noise_seed,
            attempt=attempt,
        )


@dataclass(frozen=True)
class Federation:
    """One run of the protocol.

    Attributes
    ----------
    name : str
        Folder of its transcript, such as ``private-fold0``; also names its random streams.
    role : str
        ``private`` (the victims) or ``shadow`` (trained by the adversary on its own speakers).
    fold : int
    clients : Clients or RemoteClients
        Clients with their data, or clients of nodes that hold the data and evaluate the model.
    test : tuple of ndarray or None
        Features (n, d) and labels (n,) of speakers that no client holds. None for a shadow
        federation, which is not evaluated, and for nodes that hold their test speakers.
    folder : Path
        Folder of the transcript.
    checkpoint : Path or None
        Folder of the checkpoint; without one the federation cannot be resumed.
    checkpoint_every : int
        Rounds between checkpoints.
    min_clients, patience, round_timeout : int, float, float
        As in `RuntimeConfig`.
    reader : Reader or None
        Reads each update during training; the transcript then keeps its numbers, no updates.
    others : tuple of Schedule
        Federations of the same run: ``privacy.stop_at_epsilon`` limits all of them together.
    start : Arrays or None
        Initial weights, learned from public speech. None: drawn from the seed.
    """

    name: str
    role: str
    fold: int
    clients: Clients | RemoteClients
    test: tuple[Floats, Ints] | None
    protocol: Protocol
    folder: Path
    checkpoint: Path | None = None
    checkpoint_every: int = 1
    min_clients: int = 1
    patience: float = 120.0
    round_timeout: float = 3600.0
    reader: Reader | None = None
    others: tuple[Schedule, ...] = ()
    start: Arrays | None = None

    @cached_property
    def digest(self) -> str:
        """Hash of all that determines the transcript, with the code of a custom mechanism."""
        digest = hashlib.sha256()
        numbers = [self.reader.numbers] if self.reader else []
        digest.update(json.dumps([FORMAT, self.name, asdict(self.protocol), *numbers]).encode())
        digest.update(self.clients.fingerprint())
        for array in (self.start or {}).values():
            digest.update(array.tobytes())
        plan = self.protocol.plan
        if plan.config.custom is not None:
            code = Path(inspect.getfile(type(plan.client_mechanism())))
            digest.update(code.read_bytes())
        return digest.hexdigest()[:24]

    @property
    def dimension(self) -> int:
        """Number of features d."""
        return self.clients.dimension

    @property
    def sampler(self) -> Sampler:
        """The sampler of its cohorts."""
        plan = self.protocol.plan
        units = self.clients.units(plan.config.unit)
        return cohort_sampler(
            plan.config, units, plan.sampling_rate, plan.bands, self.protocol.seed, self.name
        )

    def transcript_meta(self, parameters: Sequence[str]) -> TranscriptMeta:
        """Return the description of this federation for its transcript."""
        protocol, numbers = self.protocol, self.reader.numbers if self.reader else {}
        layers = choose_layers(protocol.transcript.layers, parameters, "transcript.layers")
        return TranscriptMeta(
            federation=self.name,
            algorithm=protocol.algorithm.name,
            num_clients=len(self.clients),
            num_rounds=protocol.plan.num_rounds,
            layers=[] if numbers or protocol.plan.config.encrypted else layers,
            dtype="float32" if numbers else protocol.transcript.dtype,
            training=asdict(protocol.training),
            numbers=numbers,
        )


@dataclass(frozen=True)
class RoundSummary:
    """Figures that the server computes in a round.

    Attributes
    ----------
    train_loss, update_norm_mean, update_norm_max, noise_stddev, clip_fraction : float
        Figures over the round's clients; NaN if nothing was received or losses are withheld.
        `clip_fraction` counts updates above the norm that their mechanism allows.
    clipping_norm : float
        Clipping norm of the summed updates in that round; NaN if they are averaged, not summed.
    clients, rejected : int
        Updates that were aggregated, and requested updates that are missing or rejected.
    rejections : dict of str to int
        Counts by the reasons of `server.strategy.replies` that occurred; also counts replies
        that nobody asked for.
    """

    train_loss: float
    update_norm_mean: float
    update_norm_max: float
    noise_stddev: float
    clip_fraction: float
    clipping_norm: float
    clients: int
    rejected: int
    rejections: dict[str, int]


@dataclass(frozen=True)
class Round(RoundSummary):
    """One row of ``rounds.parquet``; ``rejections`` becomes one column per reason there.

    NaN stands for a figure that does not exist.
    ``seconds`` is the time since the end of the round before. It covers training, messages and
    aggregation, and the rest of the transcript and evaluation of the round before. ``epsilon`` is
    spent so far in this federation alone, against the plan's vantage; ``epsilon_known`` is the
    same against an observer who knows who took part.
    """

    federation: str
    role: str
    fold: int
    round: int
    validation_uar: float
    test_uar: float
    epsilon: float
    epsilon_known: float
    seconds: float


@dataclass
class Outcome:
    """The result of a federation, beside its transcript.

    Attributes
    ----------
    best_round : int
        Round of the best validation UAR in the second half, or the last round after a public start;
        0 if nothing was evaluated.
    best_arrays, best_scores : Arrays, ModelScores or None
        The model of that round and its figures.
    public_scores : ModelScores or None
        Figures of initial weights that come from public speech.
    releases : dict of client to int
        Participation ledger: how often an update of each client may have left its device.
    epsilon, epsilon_known : float or None
        Spent in this federation by the unit that spent most, at the plan's delta, against the
        plan's vantage and against an observer who knows who took part. None without a guarantee;
        the second is None if the vantage itself is such an observer.
    exposures, known : mapping of str to Releases, or None
        Releases of each unit against the same two observers; a run composes them over its
        federations.
    """

    federation: Federation
    rounds: list[Round] = field(default_factory=list)
    best_round: int = 0
    best_arrays: Arrays | None = None
    best_scores: ModelScores | None = None
    public_scores: ModelScores | None = None
    releases: dict[int, int] = field(default_factory=dict)
    epsilon: float | None = None
    epsilon_known: float | None = None
    exposures: Mapping[str, Releases] = field(default_factory=dict)
    known: Mapping[str, Releases] | None = None


@dataclass(frozen=True)
class CanaryScores:
    """Scores of canaries under two hypotheses that the mechanism must hide.

    Attributes
    ----------
    participation : str
        ``known`` or ``secret``: whether scores use who took part in a round.
    releases : int
        Releases that each score sums over; rounds for ``secret``.
    present, absent : ndarray of float, shape (n,), (m,)
        Scores of canaries, and of opposite canaries or of directions that nobody sent.
    apart : float
        Number of neighbouring steps between the two hypotheses.
    """

    participation: str
    releases: int
    present: npt.NDArray[np.float64]
    absent: npt.NDArray[np.float64]
    apart: float
