"""Build the private federations of a configuration, one per test fold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedser.client.corpora.base import EMOTIONS
from fedser.client.models.base import parameter_sizes
from fedser.client.speakers.clients import Clients, held_out_set, make_clients, speaker_folds
from fedser.client.speakers.corpus_data import CorpusData
from fedser.common.arrays import Floats, Ints
from fedser.common.errors import UserError
from fedser.conf.algorithm_keys import AlgorithmConfig
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.conf.schema import StudyConfig
from fedser.conf.values import NUM_FOLDS
from fedser.server.federation.cohort import cohort_sampler
from fedser.server.federation.federation import Federation, Protocol
from fedser.server.federation.remote_clients import RemoteClients, Roster
from fedser.server.privacy.accountant import (
    Exposures,
    Schedule,
    composed,
    largest,
    planned_exposures,
)
from fedser.server.privacy.composition import Releases
from fedser.server.privacy.matrix_factorization import num_bands
from fedser.server.privacy.plan import PrivacyPlan
from fedser.server.rounds.checkpoint import repeated_cohorts
from fedser.server.transcript.transcript import choose_layers

MODEL_NOISE = 0.15
"""Noise on each weight of the last model that does little harm to a public model's layer."""
LARGEST_STEP, UNCLIPPED_STEP = 5.0, 2.0
"""Steps on clipped and on whole mean gradients that keep training stable.

These numbers and those of `server.study.public` were chosen on nEMO, RAVDESS and EmoDB, each in
turn as the private corpus with the other two as public speech. They depend on the norm of
utterances, `client.speakers.public_model.RADIUS`."""
CHECKPOINTS = "checkpoint"
"""Folder in a run's folder that holds the checkpoints of its federations."""


def private_federations(
    config: StudyConfig, data: CorpusData | Roster, folder: Path
) -> list[Federation]:
    """Return one federation per test fold of the configuration.

    Parameters
    ----------
    data : CorpusData or Roster
        The private corpus, or the roster of the real nodes that hold it.
    folder : Path
        The run's folder. Transcripts and checkpoints will be written below it.
    """
    folds = {fold: _fold_clients(config, data, fold) for fold in config.folds}
    schedules = {
        fold: _schedule(config, own.clients, folder / CHECKPOINTS / _name(fold))
        for fold, own in folds.items()
    }
    planned = [_planned_exposures(config, schedule) for schedule in schedules.values()]
    exposures = largest_releases(planned, config.privacy) or (Releases(1),)
    federations = [
        Federation(
            name=_name(fold),
            role="private",
            fold=fold,
            clients=own.clients,
            test=own.test,
            start=data.public.head if data.public else None,
            protocol=protocol(
                config, config.privacy, own.clients.dimension, len(own.clients), exposures
            ),
            folder=folder / "transcript" / _name(fold),
            checkpoint=folder / CHECKPOINTS / _name(fold),
            checkpoint_every=config.checkpoint_every,
            min_clients=config.runtime.min_clients or 1,
            patience=config.runtime.patience,
            round_timeout=config.runtime.round_timeout,
            others=_other_schedules(config.privacy, schedules, fold),
        )
        for fold, own in folds.items()
    ]
    for federation in federations:
        federation.protocol.plan.check_cohort()
    return federations


def without_mechanism(
    config: StudyConfig, federations: Sequence[Federation], folder: Path
) -> list[Federation]:
    """Return the same federations without the mechanism, to see what it costs beside public speech.

    They draw what a run with ``privacy=none`` draws. FedSGD takes the step for whole gradients.

    Parameters
    ----------
    federations : sequence of Federation
        Private federations. The list is empty if none starts from public speech, if there is no
        mechanism, or if real nodes hold the data: their updates must not leave without it.
    folder : Path
        The transcripts are written below it.
    """
    if config.privacy.mechanism == "none":
        return []
    step = None if config.algorithm.name == "fedsgd" else config.algorithm.server_learning_rate
    settings = replace(
        config,
        algorithm=replace(config.algorithm, server_learning_rate=step),
        transcript=replace(config.transcript, store="updates"),
    )
    plain = protocol(settings, PrivacyConfig())
    return [
        replace(
            federation,
            protocol=replace(plain, plan=replace(plain.plan, num_clients=len(federation.clients))),
            folder=folder / federation.name,
            checkpoint=None,
            reader=None,
            others=(),
        )
        for federation in federations
        if federation.start is not None and isinstance(federation.clients, Clients)
    ]


def protocol(
    config: StudyConfig,
    privacy: PrivacyConfig,
    dimension: int = 1,
    num_clients: int = 1,
    exposures: tuple[Releases, ...] = (Releases(1),),
) -> Protocol:
    """Return how a federation of this study is trained under a privacy mechanism.

    Parameters
    ----------
    privacy : PrivacyConfig
        The mechanism. It may differ from ``config.privacy``: shadow federations may use none.
    dimension : int
        Number of features.
    num_clients, exposures : int, tuple of Releases
        As in `PrivacyPlan`.

    Raises
    ------
    UserError
        If the mechanism cannot be applied; the message names the key.
    """
    sizes = parameter_sizes(config.model, dimension, len(EMOTIONS))
    shared = choose_layers(privacy.layers, list(sizes), "privacy.layers")
    plan = PrivacyPlan(
        config=privacy,
        sampling_rate=config.cohort_fraction,
        num_rounds=config.rounds,
        num_clients=num_clients,
        exposures=exposures,
        shared={name: sizes[name] for name in shared},
    )
    return Protocol(
        model=config.model,
        training=config.training,
        algorithm=with_step(config.algorithm, plan),
        plan=plan,
        transcript=config.transcript,
        seed=config.seed,
    )


def deployment_plan(config: StudyConfig, clients: int, dimension: int) -> PrivacyPlan:
    """Return the privacy plan of one federation with all clients, without any data.

    Parameters
    ----------
    clients, dimension : int
        Number of clients, and of inputs of the model.

    Raises
    ------
    UserError
        As `protocol` does.
    """
    privacy = config.privacy
    shards = config.corpus["shards"] if privacy.unit == "speaker" else 1
    units = [str(client // shards) for client in range(clients)]
    bands = num_bands(privacy, config.cohort_fraction, config.rounds)
    sampler = cohort_sampler(privacy, units, config.cohort_fraction, bands, config.seed, "plan")
    planned = planned_exposures(
        privacy,
        # Of secret cohorts only the number of rounds counts.
        [[] if privacy.secret_cohorts else sampler(r) for r in range(1, config.rounds + 1)],
        config.cohort_fraction,
        [1] * clients,
        units,
        config.algorithm.name,
        config.training,
    )
    exposures = largest_releases([planned], privacy) or (Releases(1),)
    plan = protocol(config, privacy, dimension, clients, exposures).plan
    plan.check_cohort()
    return plan


def with_step(algorithm: AlgorithmConfig, plan: PrivacyPlan) -> AlgorithmConfig:
    """Choose the server's step by the noise alone, if the configuration leaves it open.

    The noise of all rounds then adds up to `MODEL_NOISE` on each weight of the last model.
    """
    if algorithm.server_learning_rate is not None:
        return algorithm
    step = UNCLIPPED_STEP
    if noise := plan.model_noise:
        per_weight = noise / math.sqrt(sum(plan.shared.values()))
        step = min(LARGEST_STEP, MODEL_NOISE / per_weight)
    return replace(algorithm, server_learning_rate=step)


def parameter_names(config: StudyConfig) -> list[str]:
    """Return the names of the model's parameters, from the input to the output."""
    return list(parameter_sizes(config.model, inputs=1, classes=len(EMOTIONS)))


def largest_releases(
    exposures: Sequence[Exposures], privacy: PrivacyConfig
) -> tuple[Releases, ...]:
    """Return the largest releases of any unit, over the federations that count together.

    All federations of a run count together, unless ``privacy.cross_validation=evaluation``
    declares that one model is released and the other folds only estimate its utility.

    Parameters
    ----------
    exposures : sequence of Exposures
        Releases of each unit, one mapping per federation.
    """
    alone = privacy.cross_validation == "evaluation"
    together = exposures if alone else [composed(exposures)]
    return largest(releases for units in together for releases in units.values())


@dataclass(frozen=True)
class _FoldClients:
    """Clients of one fold and its test set; real nodes test on their own data."""

    clients: Clients | RemoteClients
    test: tuple[Floats, Ints] | None


def _fold_clients(config: StudyConfig, data: CorpusData | Roster, fold: int) -> _FoldClients:
    """Return the clients of the speakers outside a test fold, and the test set of the others."""
    tested = speaker_folds(data.speakers, NUM_FOLDS, config.seed)[fold]
    held_out = set(tested)
    trained = [speaker for speaker in data.speakers if speaker not in held_out]
    if isinstance(data, Roster):
        return _FoldClients(data.clients(trained, tested, config.normalisation), None)
    clients = make_clients(data, trained, config.seed, config.normalisation)
    return _FoldClients(clients, held_out_set(data, tested, clients, config.normalisation))


def _name(fold: int) -> str:
    return f"private-fold{fold}"


def _schedule(config: StudyConfig, clients: Clients | RemoteClients, checkpoint: Path) -> Schedule:
    """Return the cohorts of all rounds, and the cohorts that an interrupted run repeats."""
    units = clients.units(config.privacy.unit)
    bands = num_bands(config.privacy, config.cohort_fraction, config.rounds)
    sampler = cohort_sampler(
        config.privacy, units, config.cohort_fraction, bands, config.seed, checkpoint.name
    )
    return Schedule(
        sizes=clients.sizes().tolist(),
        units=units,
        cohorts=[sampler(server_round) for server_round in range(1, config.rounds + 1)],
        repeated=repeated_cohorts(checkpoint) if config.privacy.states_epsilon else [],
    )


def _other_schedules(
    privacy: PrivacyConfig, schedules: Mapping[int, Schedule], fold: int
) -> tuple[Schedule, ...]:
    """Return the schedules of the other folds, if this fold needs them to stop in time."""
    if privacy.stop_at_epsilon is None or privacy.cross_validation == "evaluation":
        return ()
    others = tuple(schedule for other, schedule in schedules.items() if other != fold)
    if others and privacy.spec.correlated:
        # An interruption of one fold changes whose turn it is there, which this fold cannot know.
        raise UserError(
            f"privacy.stop_at_epsilon: privacy={privacy.mechanism} cannot stop several folds "
            "together; train one fold (folds=[0]), or set privacy.cross_validation=evaluation"
        )
    return others


def _planned_exposures(config: StudyConfig, schedule: Schedule) -> Exposures:
    """Return the releases of each unit that all rounds of a federation will cause."""
    return planned_exposures(
        config.privacy,
        schedule.cohorts,
        config.cohort_fraction,
        schedule.sizes,
        schedule.units,
        config.algorithm.name,
        config.training,
    )
