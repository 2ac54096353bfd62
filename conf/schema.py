"""The checked shape of a study's configuration: what Hydra merges ``config.yaml`` into."""

from dataclasses import dataclass, field
from typing import Any

from fedser.conf.algorithm_keys import AlgorithmConfig, TranscriptConfig
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.conf.training_keys import TrainingConfig


@dataclass
class RuntimeConfig:
    """Where clients run.

    Attributes
    ----------
    name : str
        ``ray``, ``local`` or ``network``.
    client_resources : dict
        CPUs and GPUs of one Ray worker: as many workers start as fit the machine, or the cluster.
    ray_address : str or None
        Of a Ray cluster to join, such as ``10.0.0.1:6379``, whose token must be known here; without
        one Ray starts here.
    min_clients : int or None
        Nodes without which no round starts; None: one. A networked study starts with a node for
        each key that is known, or where there are no keys with so many.
    patience : float
        Seconds to wait for them, and for a SuperLink out of reach, before a run is suspended.
    round_timeout : float
        Seconds for nodes to reply in; a round goes on without the updates that are late.
    address : str
        Of the network's SuperLink: host and port. One that is started here listens on the loopback
        interface, and nodes reach it through a proxy.
    start : bool
        Whether to start the SuperLink; else one runs there in process isolation.
    secret : str or None
        File that a SuperLink which runs already was given as ``--superexec-auth-secret-file``.
    certificates : str or None
        Folder that ``docker/certificates.sh`` made: ``ca.crt``, ``server.crt``, ``server.key``
        and the nodes' public keys in ``nodes``.
    insecure : bool
        Do without TLS and authentication.
    truth : str or None
        The experimenter's table of attributes: a column ``speaker``, and those to attack.
    """

    name: str = "ray"
    client_resources: dict[str, float] = field(
        default_factory=lambda: {"num_cpus": 1.0, "num_gpus": 0.0}
    )
    ray_address: str | None = None
    min_clients: int | None = None
    patience: float = 120.0
    round_timeout: float = 3600.0
    address: str = "127.0.0.1:8444"
    start: bool = True
    secret: str | None = None
    certificates: str | None = None
    insecure: bool = False
    truth: str | None = None

    @property
    def simulated(self) -> "RuntimeConfig":
        """Where what needs no real clients runs: shadow federations, canaries."""
        return RuntimeConfig() if self.name == "network" else self


@dataclass
class AdversaryConfig:
    """What the adversary is after and what it works with.

    Attributes
    ----------
    attribute : str
        Column of the corpora's metadata to infer, or ``speaker``: to recognise a client again,
        by another of its updates or by those of another client of the same speaker.
    vantage : str
        ``attributed``: every update with its sender. ``aggregate``: how the model moved in a
        round, and who took part. ``final``: the trained model alone.
    layers : list of str
        Each attacked by itself: ``first``, ``second``, ``last``, ``all``, or names separated by
        commas.
    leaked_updates : list of int or "all"
        How many updates of one client the adversary combines.
    selection : str
        Which of a client's updates these are: ``random``, ``earliest`` or ``latest``.
    combination : str
        What of them is put together: the mean of the ``updates``, the mean of the
        ``statistics`` that an attack reads, or the sum of their ``log_odds``.
    initial_weights : bool
        Whether it knows them, and with what it sees every model since.
    aware : bool
        Whether shadow federations run under the victims' mechanism. Attacks that rehearse at
        the victims' models (snapshot, and fusion with it) always do so under the mechanism.
    draws : int
        Random choices of that many updates, a client; of the earliest or latest there is one.
    shadow_federations : int
        Rehearsals on the shadow corpora, each from other initial weights and speakers.
    bootstraps : int
        Resamples of the speakers for the intervals.
    """

    attribute: str = "gender"
    vantage: str = "attributed"
    layers: list[str] = field(default_factory=lambda: ["first"])
    leaked_updates: list[Any] = field(default_factory=lambda: [1, 3, 5, 10, 20, "all"])
    selection: str = "random"
    combination: str = "statistics"
    initial_weights: bool = True
    aware: bool = False
    draws: int = 10
    shadow_federations: int = 5
    bootstraps: int = 1000


@dataclass
class AuditConfig:
    """Keys of ``conf/audit``.

    Attributes
    ----------
    name : str
        ``none`` or ``canary``.
    canaries, releases : int
        Canary clients, and how often each takes part. Under local noise as many clients send
        the opposite.
    magnitudes : list of float
        Norms of their updates over the clipping norm, each audited by itself.
    confidence : float
        Of each lower bound on epsilon, one-sided.
    """

    name: str = "none"
    canaries: int = 500
    releases: int = 4
    magnitudes: list[float] = field(default_factory=lambda: [1.0, 3.0])
    confidence: float = 0.99


@dataclass
class StudyConfig:
    """A whole study. ``conf/config.yaml`` says what each key does."""

    corpus: Any
    features: Any
    attack: Any
    normalisation: str
    model: Any
    training: TrainingConfig
    algorithm: AlgorithmConfig
    privacy: PrivacyConfig
    transcript: TranscriptConfig
    runtime: RuntimeConfig
    adversary: AdversaryConfig
    audit: AuditConfig
    logger: Any
    data_root: str
    cache: str
    corpora: list[str]
    shadow: Any
    age_bounds: list[int]
    rounds: int
    cohort_fraction: float
    folds: list[int]
    seed: int
    stage: str
    table: str | None
    run: str | None
    runs: Any
    resume: str | None
    checkpoint_every: int
    keep_transcript: bool
    keep_shadows: bool
