"""Small made-up data that many tests share."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import norm

from fedser.client.corpora.base import EMOTIONS, Utterance
from fedser.client.features.frames import pad
from fedser.client.models.attention import Attention
from fedser.client.models.base import ModelConfig, parameter_sizes
from fedser.client.models.mlp import Mlp
from fedser.client.speakers.clients import Clients, held_out_set, make_clients
from fedser.client.speakers.corpus_data import CorpusData
from fedser.conf.algorithm_keys import AlgorithmConfig, TranscriptConfig
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.conf.training_keys import TrainingConfig
from fedser.server.federation.federation import Federation, Protocol
from fedser.server.privacy.composition import Releases
from fedser.server.privacy.plan import PrivacyPlan

FEATURES = 12
MLP = Mlp(hidden=[8, 6])
ATTENTION = Attention(frame_units=[8, 6], attention_units=5, hidden=[7])
SHARED = parameter_sizes(MLP, FEATURES, len(EMOTIONS))


def corpus(
    name: str = "made", speakers: int = 10, utterances: int = 12, shards: int = 1, seed: int = 0
) -> CorpusData:
    """Speakers with an emotion effect, a gender effect and an offset and scale of their own."""
    rng = np.random.default_rng(seed)
    by_emotion = rng.normal(0, 1, (len(EMOTIONS), FEATURES))
    rows, listed = [], []
    for number in range(speakers):
        gender = ("female", "male")[number % 2]
        offset, scale = rng.normal(0, 3, FEATURES), rng.uniform(0.5, 2, FEATURES)
        for count in range(utterances):
            emotion = count % len(EMOTIONS)
            value = by_emotion[emotion] + rng.normal(0, 1, FEATURES)
            rows.append(offset + scale * value + 2 * (number % 2))
            attributes = {"gender": gender, "take": str(count)}
            path = Path(f"{name}-{number}-{count}.wav")
            listed.append(Utterance(path, f"s{number:02d}", EMOTIONS[emotion], attributes))
    digests = [str(utterance.path) for utterance in listed]
    return CorpusData(name, shards, listed, np.array(rows, dtype=np.float32), digests, [])


def corpus_of_frames(longest: int = 7, **kwargs: int) -> CorpusData:
    """The same utterances in 1 to `longest` frames each, which scatter about their vector."""
    data, rng = corpus(**kwargs), np.random.default_rng(1)
    sequences = [
        (vector + rng.normal(0, 1, (rng.integers(1, longest + 1), FEATURES))).astype(np.float32)
        for vector in data.features
    ]
    return replace(data, features=pad(sequences, longest))


def clients(data: CorpusData | None = None, normalisation: str = "speaker") -> Clients:
    data = data or corpus()
    return make_clients(data, data.speakers, 0, normalisation)


def protocol(
    rounds: int = 4,
    fraction: float = 0.4,
    algorithm: str = "fedavg",
    privacy: PrivacyConfig | None = None,
    transcript: TranscriptConfig | None = None,
    seed: int = 0,
    exposures: tuple[Releases, ...] = (Releases(1),),
    num_clients: int = 8,
    model: ModelConfig = MLP,
) -> Protocol:
    step = 1.0 if algorithm == "fedavg" else 0.1
    return Protocol(
        model=model,
        training=TrainingConfig(batch_size=4, learning_rate=5e-3),
        algorithm=AlgorithmConfig(algorithm, step),
        plan=PrivacyPlan(
            privacy or PrivacyConfig(),
            fraction,
            rounds,
            num_clients,
            exposures,
            parameter_sizes(model, FEATURES, len(EMOTIONS)),
        ),
        transcript=transcript or TranscriptConfig(layers="all", dtype="float32"),
        seed=seed,
    )


def federation(folder: Path, test: bool = True, **kwargs: object) -> Federation:
    """Eight of ten made-up speakers train, two are held out; `model` says on what."""
    data = corpus_of_frames() if kwargs.get("model") is ATTENTION else corpus()
    own = make_clients(data, data.speakers[:8], 0, "speaker")
    return Federation(
        name="private-fold0",
        role="private",
        fold=0,
        clients=own,
        test=held_out_set(data, data.speakers[8:], own, "speaker") if test else None,
        protocol=protocol(**kwargs),  # type: ignore[arg-type]
        folder=folder,
    )


UDP = PrivacyConfig(
    mechanism="udp",
    epsilon=5.0,
    nominal_delta=0.5,
    clipping_norm=0.25,
    reproducible_noise=True,
)
LOCAL = PrivacyConfig(mechanism="local", epsilon=8.0, clipping_norm=0.1, reproducible_noise=True)
LAYERED = replace(LOCAL, mechanism="layered", layer_shares=[0.1, 0.3, 0.6])
CENTRAL = PrivacyConfig(
    mechanism="central",
    epsilon=8.0,
    clipping_norm=0.1,
    relation="add_remove",
    vantage="outsider",
    accountant="pld",
    reproducible_noise=True,
)
ADAPTIVE = replace(
    CENTRAL, mechanism="central_adaptive", target_quantile=0.5, clip_learning_rate=0.2
)
MATRIX = replace(CENTRAL, mechanism="central_matrix", relation="zero_out", vantage="sum")
DISTRIBUTED = replace(
    MATRIX, mechanism="distributed", accountant=None, aggregation="secure", dropout=0.25
)
DP_SGD = PrivacyConfig(
    mechanism="dp_sgd",
    epsilon=8.0,
    clipping_norm=1.0,
    unit="utterance",
    relation="add_remove",
    accountant="pld",
    reproducible_noise=True,
)


class NoNoise:
    """A noise source of which every Gaussian integer is 0: the tail probability is one half."""

    def words(self, count: int) -> np.ndarray:
        return np.full(count, 2**64 - 2, np.uint64)


def word_of(x: float) -> int:
    """The word of 64 bits of which a Gaussian integer is x standard deviations."""
    return 2 * min(int(norm.sf(abs(x)) * 2**64), 2**63 - 1) + (x < 0)
