"""What one federated run is: its clients, its protocol, and what comes out of it."""

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
from fedser.server.federation.scores import Scores
from fedser.server.privacy.accountant import Schedule
from fedser.server.privacy.composition import Releases
from fedser.server.privacy.plan import PrivacyPlan
from fedser.server.transcript.transcript import Reader, TranscriptMeta, choose_layers

FORMAT = 5
"""Raise it whenever the same protocol and data give another transcript."""


@dataclass(frozen=True)
class Protocol:
    """How a federation is trained and what is recorded of it."""

    model: ModelConfig
    training: TrainingConfig
    algorithm: AlgorithmConfig
    plan: PrivacyPlan
    transcript: TranscriptConfig
    seed: int

    @property
    def noise_seed(self) -> int | None:
        """Seed of noise that is reproducible; None: noise from the system's entropy."""
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
        """Return what a node that hosts `clients` of a federation is asked in a round."""
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
        ``private`` (the victims) or ``shadow`` (the adversary's rehearsal).
    fold : int
    clients : Clients or RemoteClients
        Whose data is at hand here, or is held by nodes, which evaluate the model, too.
    test : tuple of ndarray or None
        Features (n, d) and labels (n,) of speakers that no client holds. Without them nothing
        is evaluated: a shadow federation.
    folder : Path
        Where the transcript goes.
    checkpoint : Path or None
        Where its checkpoint goes; without one it cannot be resumed.
    checkpoint_every : int
        Rounds between checkpoints.
    min_clients, patience, round_timeout : int, float, float
        As of `RuntimeConfig`.
    reader : Reader or None
        What reads each update in the place of keeping it.
    others : tuple of Schedule
        The federations that count together with this one for ``privacy.stop_at_epsilon``.
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

    @cached_property
    def digest(self) -> str:
        """Name of everything that determines its transcript, a custom mechanism's code too."""
        digest = hashlib.sha256()
        read = [self.reader.numbers] if self.reader else []
        digest.update(json.dumps([FORMAT, self.name, asdict(self.protocol), *read]).encode())
        digest.update(self.clients.fingerprint())
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
        """How its cohorts are drawn."""
        plan = self.protocol.plan
        return cohort_sampler(
            plan.config, len(self.clients), plan.sampling_rate, self.protocol.seed, self.name
        )

    def transcript_meta(self, parameters: Sequence[str]) -> TranscriptMeta:
        """Return what the transcript says of how the federation was run."""
        protocol, numbers = self.protocol, self.reader.numbers if self.reader else {}
        layers = choose_layers(protocol.transcript.layers, parameters, "transcript.layers")
        return TranscriptMeta(
            federation=self.name,
            algorithm=protocol.algorithm.name,
            num_clients=len(self.clients),
            num_rounds=protocol.plan.num_rounds,
            layers=[] if numbers else layers,
            dtype="float32" if numbers else protocol.transcript.dtype,
            training=asdict(protocol.training),
            numbers=numbers,
        )


@dataclass(frozen=True)
class RoundSummary:
    """What the server computed in a round.

    Attributes
    ----------
    train_loss, update_norm_mean, update_norm_max, noise_stddev, clip_fraction : float
        Over the round's clients; NaN where nothing was received or a loss is withheld. The clip
        is the server's: updates above the norm that their mechanism allows.
    clipping_norm : float
        The server's own clip in that round; NaN where it only checks its clients'.
    clients, rejected : int
        Updates aggregated, and asked for but missing or refused.
    rejections : dict of str to int
        Why, by the reasons of `server.strategy.replies` that occurred; further replies are counted
        too.
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
    """A row of ``rounds.parquet``, where ``rejections`` are ``rejected_REASON``, a column each.

    NaN stands where a figure does not exist.
    ``seconds`` runs from the end of the round before: training, messages and aggregation, and
    what is then left to do of that round's transcript and evaluation. ``epsilon`` is spent so
    far in this federation alone, against the plan's vantage; ``epsilon_known`` is the same
    against an observer who knows who took part.
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
    """What a federation leaves besides its transcript.

    Attributes
    ----------
    best_round : int
        Round of the best validation UAR in the second half; 0 where nothing was evaluated.
    best_arrays, best_scores : Arrays, Scores or None
        The model of that round and its figures.
    releases : dict of client to int
        Participation ledger: how often each client's update may have left its device.
    epsilon, epsilon_known : float or None
        Spent in this federation by the unit that spent most, at the plan's delta, against the
        plan's vantage and against an observer who knows who took part; None without a guarantee,
        or where the first assumes the second.
    exposures, known : mapping of str to Releases, or None
        Releases of each unit, against the same two; what a run's federations compose to.
    """

    federation: Federation
    rounds: list[Round] = field(default_factory=list)
    best_round: int = 0
    best_arrays: Arrays | None = None
    best_scores: Scores | None = None
    releases: dict[int, int] = field(default_factory=dict)
    epsilon: float | None = None
    epsilon_known: float | None = None
    exposures: Mapping[str, Releases] = field(default_factory=dict)
    known: Mapping[str, Releases] | None = None


@dataclass(frozen=True)
class CanaryScores:
    """What canaries gave away: scores under two hypotheses that a mechanism is to hide.

    Attributes
    ----------
    participation : str
        ``known`` or ``secret``: whether scores use who took part in a round.
    releases : int
        Releases that each score sums up; for ``secret`` rounds.
    present, absent : ndarray of float, shape (n,), (m,)
        Scores of canaries, and of their opposites or of directions that nobody sent.
    apart : float
        How many neighbouring steps lie between the two.
    """

    participation: str
    releases: int
    present: npt.NDArray[np.float64]
    absent: npt.NDArray[np.float64]
    apart: float
