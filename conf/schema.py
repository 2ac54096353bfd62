"""The typed schema of a study's configuration; Hydra checks ``config.yaml`` against it."""

from dataclasses import dataclass, field
from typing import Any

from fedser.conf.algorithm_keys import AlgorithmConfig, TranscriptConfig
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.conf.training_keys import TrainingConfig


@dataclass
class RuntimeConfig:
    """Keys of ``conf/runtime``: where clients run.

    Attributes
    ----------
    name : str
        ``ray``, ``local`` or ``network``.
    client_resources : dict
        CPUs and GPUs of one Ray worker. As many workers start as fit the machine or the cluster.
    ray_address : str or None
        Address of a Ray cluster to join, such as ``10.0.0.1:6379``; its token must be set on this
        machine. None: start Ray on this machine.
    min_clients : int or None
        Smallest number of nodes with which a round starts; None: one. A networked study starts
        once the node of each known key is there; without keys, once this number of nodes is there.
    patience : float
        Seconds to wait for nodes, and for a SuperLink that cannot be reached, before the run is
        suspended.
    round_timeout : float
        Seconds to wait for replies. A round goes on without late updates.
    address : str
        Host and port of the network's SuperLink. A SuperLink that the study starts listens on the
        loopback interface; nodes reach it through a proxy.
    start : bool
        Whether to start the SuperLink. Otherwise one must already run there in process isolation.
    secret : str or None
        File that a running SuperLink was given as ``--superexec-auth-secret-file``.
    certificates : str or None
        Folder made by ``docker/certificates.sh``: ``ca.crt``, ``server.crt``, ``server.key``, and
        the nodes' public keys in ``nodes``.
    insecure : bool
        Whether to run without TLS and authentication.
    truth : str or None
        The experimenter's table of attributes: a column ``speaker`` and the attributes to attack.
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
        """Runtime of federations without real clients: shadow federations and canaries."""
        return RuntimeConfig() if self.name == "network" else self


@dataclass
class AdversaryConfig:
    """Keys of ``adversary``: its target, its knowledge and its effort.

    Attributes
    ----------
    attribute : str
        Column of the corpora's metadata to infer. ``speaker``: re-identify a client by another of
        its updates, or by updates of another client of the same speaker.
    vantage : str
        ``attributed``: every update with its sender. ``aggregate``: the change of the model in
        each round, and who took part; one estimate for each client. ``final``: the trained model
        alone.
    layers : list of str
        Layers to attack, one attack per entry: ``first``, ``second``, ``last``, ``all``, or names
        separated by commas.
    leaked_updates : list of int or "all"
        Numbers of updates of one client that the adversary combines.
    selection : str
        The updates of a client that leak: ``random``, ``earliest`` or ``latest``.
    combination : str
        How they are combined: the mean of the ``updates``, the mean of the ``statistics`` that an
        attack computes, or the sum of their ``log_odds``.
    initial_weights : bool
        Whether the adversary knows the initial weights. With the updates it then also knows the
        model of every round.
    aware : bool
        Whether shadow federations run under the victims' mechanism. The attack ``snapshot``, and
        ``fusion`` with it, always train shadow speakers under the mechanism.
    draws : int
        Random selections of updates per client and number of leaked updates. The earliest and
        the latest updates are one selection.
    shadow_federations : int
        Number of shadow federations; each has other initial weights and speakers.
    bootstraps : int
        Number of resamples of the speakers for the confidence intervals.
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
        Number of canary clients, and rounds that each takes part in. Under local noise the same
        number of clients sends the negative update.
    magnitudes : list of float
        Norms of the canaries' updates over the clipping norm; one audit per entry.
    confidence : float
        One-sided confidence of each lower bound on epsilon.
    """

    name: str = "none"
    canaries: int = 500
    releases: int = 4
    magnitudes: list[float] = field(default_factory=lambda: [1.0, 3.0])
    confidence: float = 0.99


@dataclass
class PlanConfig:
    """Keys of ``plan``, for ``stage=plan``.

    Attributes
    ----------
    clients : int or None
        Number of clients to plan for. None: as many as the private corpus has.
    """

    clients: int | None = None


@dataclass
class StudyConfig:
    """All keys of a study; ``conf/config.yaml`` describes them."""

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
    plan: PlanConfig
    logger: Any
    data_root: str
    cache: str
    corpora: list[str]
    public: Any
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
