"""From a configuration to private federations, and from their outcomes to files."""

import json
import math
import shutil
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save

from fedser.client.corpora.base import EMOTIONS
from fedser.client.features.base import Extractor
from fedser.client.holdings import NORMALISATIONS
from fedser.client.models.base import ModelConfig, parameter_sizes
from fedser.client.speakers.clients import Clients, held_out_set, make_clients, speaker_folds
from fedser.client.speakers.corpus_data import CorpusData
from fedser.client.training.engine import ENGINES
from fedser.common.arrays import Floats, Ints
from fedser.common.errors import UserError, check_choice
from fedser.common.files import replacing, write_text
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.conf.schema import StudyConfig
from fedser.conf.values import NUM_FOLDS, check_values
from fedser.server.federation.cohort import cohort_sampler
from fedser.server.federation.federation import Federation, Outcome, Protocol, Round
from fedser.server.federation.remote_clients import RemoteClients, Roster
from fedser.server.privacy.accountant import (
    Exposures,
    Schedule,
    accounted_noise,
    composed,
    largest,
    planned_exposures,
    spent,
)
from fedser.server.privacy.composition import Releases
from fedser.server.privacy.plan import PrivacyPlan
from fedser.server.privacy.statement import ProtectedUnits, SpentPrivacy, privacy_statement
from fedser.server.rounds.checkpoint import repeated_cohorts
from fedser.server.strategy.replies import REASONS
from fedser.server.transcript.transcript import choose_layers

CHECKPOINTS = "checkpoint"


def check_config(config: StudyConfig) -> None:
    """Refuse values that the types cannot.

    Raises
    ------
    UserError
        Naming the key.
    """
    check_values(config)
    if config.runtime.name == "network" and config.normalisation not in NORMALISATIONS:
        raise UserError(
            f"normalisation={config.normalisation} needs statistics of all nodes' features, which "
            f"do not leave them: with runtime=network choose {' or '.join(NORMALISATIONS)}"
        )
    if config.runtime.name == "network" and config.privacy.custom is not None:
        raise UserError(
            "privacy.mechanism=custom: nodes with data of their own apply fedser's own mechanisms "
            "alone; choose another runtime"
        )
    check_choice("training.engine", config.training.engine, ENGINES)
    if not 0 <= config.model.dropout < 1:
        raise UserError(f"model.dropout={config.model.dropout} must lie in [0, 1)")
    check_choice("transcript.store", config.transcript.store, ("updates", "features"))
    if config.transcript.dtype not in ("float16", "float32"):
        raise UserError(f"transcript.dtype={config.transcript.dtype}: use float16 or float32")
    choose_layers(config.transcript.layers, parameter_names(config), "transcript.layers")
    protocol(config, config.privacy)


def check_frames(model: ModelConfig, extractor: Extractor) -> None:
    """Refuse a model that cannot read the features.

    Raises
    ------
    UserError
        Naming both keys.
    """
    if model.reads_frames and extractor.frames is None:
        raise UserError(
            f"model={model.name} reads frames, and these features are one vector an utterance: "
            "set features=logmel, or features=huggingface with features.frames=N, or model=mlp"
        )
    if not model.reads_frames and extractor.frames is not None:
        raise UserError(
            f"model={model.name} reads one vector an utterance, and features.frames="
            f"{extractor.frames} gives frames: set model=attention, or other features"
        )


def parameter_names(config: StudyConfig) -> list[str]:
    """Return the recogniser's parameters, in the order of the network."""
    return list(parameter_sizes(config.model, inputs=1, classes=len(EMOTIONS)))


def protocol(
    config: StudyConfig,
    privacy: PrivacyConfig,
    dimension: int = 1,
    num_clients: int = 1,
    exposures: tuple[Releases, ...] = (Releases(1),),
) -> Protocol:
    """Return how a federation of this study is trained, under a given privacy mechanism.

    Parameters
    ----------
    dimension : int
        Number of features.
    num_clients, exposures : int, tuple of Releases
        As in `PrivacyPlan`.
    """
    sizes = parameter_sizes(config.model, dimension, len(EMOTIONS))
    shared = choose_layers(privacy.layers, list(sizes), "privacy.layers")
    return Protocol(
        model=config.model,
        training=config.training,
        algorithm=config.algorithm,
        plan=PrivacyPlan(
            config=privacy,
            sampling_rate=config.cohort_fraction,
            num_rounds=config.rounds,
            num_clients=num_clients,
            exposures=exposures,
            shared={name: sizes[name] for name in shared},
        ),
        transcript=config.transcript,
        seed=config.seed,
    )


def private_federations(
    config: StudyConfig, data: CorpusData | Roster, folder: Path
) -> list[Federation]:
    """Return a federation for each test fold, with transcripts to go below `folder`."""
    folds = speaker_folds(data.speakers, NUM_FOLDS, config.seed)
    parts = {}
    for fold in config.folds:
        held_out = set(folds[fold])
        trained_on = [s for s in data.speakers if s not in held_out]
        parts[fold] = _fold_data(config, data, trained_on, folds[fold])
    schedules = {
        fold: _schedule(config, clients, folder / CHECKPOINTS / _name(fold))
        for fold, (clients, _) in parts.items()
    }
    planned = [_planned(config, schedule) for schedule in schedules.values()]
    together = counted_together(planned, config.privacy)
    exposures = largest(r for part in together for r in part.values()) or (Releases(1),)
    federations = []
    for fold, (clients, test) in parts.items():
        name = _name(fold)
        federations.append(
            Federation(
                name=name,
                role="private",
                fold=fold,
                clients=clients,
                test=test,
                protocol=protocol(
                    config, config.privacy, clients.dimension, len(clients), exposures
                ),
                folder=folder / "transcript" / name,
                checkpoint=folder / CHECKPOINTS / name,
                checkpoint_every=config.checkpoint_every,
                min_clients=config.runtime.min_clients or 1,
                patience=config.runtime.patience,
                round_timeout=config.runtime.round_timeout,
                others=_others(config.privacy, schedules, fold),
            )
        )
    return federations


def _fold_data(
    config: StudyConfig, data: CorpusData | Roster, trained: Sequence[str], tested: Sequence[str]
) -> tuple[Clients | RemoteClients, tuple[Floats, Ints] | None]:
    """Return a fold's clients, and its test set where that is at hand."""
    if isinstance(data, Roster):
        return data.clients(trained, tested, config.normalisation), None
    clients = make_clients(data, trained, config.seed, config.normalisation)
    return clients, held_out_set(data, tested, clients, config.normalisation)


def _name(fold: int) -> str:
    return f"private-fold{fold}"


def counted_together(parts: Sequence[Exposures], privacy: PrivacyConfig) -> list[Exposures]:
    """Return the releases of each unit, composed over the federations that count together.

    These are all federations of a run, unless ``privacy.cross_validation=evaluation`` declares
    that one model is released and the other folds only estimate its utility.
    """
    return list(parts) if privacy.cross_validation == "evaluation" else [composed(parts)]


def _schedule(config: StudyConfig, clients: Clients | RemoteClients, checkpoint: Path) -> Schedule:
    """Foresee the cohorts of a federation; it may have been interrupted before."""
    sampler = cohort_sampler(
        config.privacy, len(clients), config.cohort_fraction, config.seed, checkpoint.name
    )
    return Schedule(
        sizes=clients.sizes().tolist(),
        units=clients.units(config.privacy.unit),
        cohorts=[sampler(server_round) for server_round in range(1, config.rounds + 1)],
        repeated=repeated_cohorts(checkpoint) if config.privacy.states_epsilon else [],
    )


def _others(
    privacy: PrivacyConfig, schedules: Mapping[int, Schedule], fold: int
) -> tuple[Schedule, ...]:
    """Return the schedules that a fold needs to stop in time: those of the other folds."""
    if privacy.stop_at_epsilon is None or privacy.cross_validation == "evaluation":
        return ()
    return tuple(schedule for other, schedule in schedules.items() if other != fold)


def _planned(config: StudyConfig, schedule: Schedule) -> Exposures:
    """Foresee the releases of each unit in the rounds of a federation."""
    return planned_exposures(
        config.privacy,
        schedule.cohorts,
        config.cohort_fraction,
        schedule.sizes,
        schedule.units,
        config.algorithm.name,
        config.training,
    )


def write_training(
    folder: Path,
    data: CorpusData | Roster,
    outcomes: Sequence[Outcome],
    normalisation: str,
    seconds: float,
) -> None:
    """Write what private federations came to, besides their transcripts.

    ``rounds.parquet`` has one row per round, ``ledger.parquet`` one per client and federation:
    how often its update may have left its device, and which unit it belongs to. A unit has the
    same name in all federations. ``model.safetensors`` has the best model of each federation, or
    of the first alone under ``privacy.cross_validation=evaluation``; ``training.json`` sums up.
    ``truth.parquet`` tells the experimenter, never the adversary, the speaker of each client.
    """
    rounds = pd.DataFrame([round_columns(r) for o in outcomes for r in o.rounds])
    tables = {"rounds": rounds, "ledger": _ledger(outcomes), "truth": _truth(data, outcomes)}
    for name, table in tables.items():
        with replacing(folder / f"{name}.parquet") as partial:
            table.to_parquet(partial)
    privacy = outcomes[0].federation.protocol.plan.config
    models = {
        f"fold{o.federation.fold}.{name}": array
        for o in (outcomes if privacy.cross_validation == "released" else outcomes[:1])
        for name, array in (o.best_arrays or {}).items()
    }
    with replacing(folder / "model.safetensors") as partial:
        partial.write_bytes(save(models))
    summary = {
        "corpus": data.summary(),
        "clients": len(data.speakers) * data.shards,
        "speakers": len(data.speakers),
        "utility": _utility(data, outcomes),
        "privacy": _privacy(outcomes, normalisation),
        "rounds_per_second": len(rounds) / rounds["seconds"].sum(),
        "seconds": seconds,
    }
    write_text(folder / "training.json", json.dumps(summary, indent=2, allow_nan=False))
    remove_checkpoints(folder)


def remove_checkpoints(folder: Path) -> None:
    """Remove what only a run that is not finished needs."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def round_columns(row: Round) -> dict[str, Any]:
    """Return a row of ``rounds.parquet``."""
    fields = asdict(row)
    counted = fields.pop("rejections")
    return fields | {f"rejected_{reason}": counted.get(reason, 0) for reason in REASONS}


def _ledger(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return the participation ledger: how often each client's update may have left its device."""
    rows = []
    for o in outcomes:
        units = o.federation.clients.units(o.federation.protocol.plan.config.unit)
        rows += [
            {
                "federation": o.federation.name,
                "client": client,
                "unit": units[client],
                "releases": n,
            }
            for client, n in sorted(o.releases.items())
        ]
    return pd.DataFrame(rows, columns=["federation", "client", "unit", "releases"])


def _truth(data: CorpusData | Roster, outcomes: Sequence[Outcome]) -> pd.DataFrame:
    attributes = {speaker: data.attributes(speaker) for speaker in data.speakers}
    return pd.DataFrame(
        {
            "federation": outcome.federation.name,
            "fold": outcome.federation.fold,
            "client": client,
            "corpus": data.name,
            "speaker": speaker,
            **attributes[speaker],
        }
        for outcome in outcomes
        for client, speaker in enumerate(outcome.federation.clients.speakers)
    )


def _utility(data: CorpusData | Roster, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    per_fold: list[dict[str, Any]] = []
    for o in outcomes:
        assert o.best_scores is not None  # private federations are always scored
        trained_on = set(o.federation.clients.speakers)
        per_fold.append(
            {
                "fold": o.federation.fold,
                "uar": _measured(o.best_scores.test_uar),
                "accuracy": _measured(o.best_scores.test_accuracy),
                "best_round": o.best_round,
                "validation_uar": _measured(o.best_scores.validation_uar),
                "confusion": o.best_scores.confusion.tolist(),
                "test_speakers": [s for s in data.speakers if s not in trained_on],
            }
        )
    return {
        "uar": _mean([f["uar"] for f in per_fold]),
        "accuracy": _mean([f["accuracy"] for f in per_fold]),
        "best_round": int(statistics.median_low(o.best_round for o in outcomes)),
        "per_fold": per_fold,
    }


def _measured(figure: float) -> float | None:
    """Return a figure, or None where nobody told it."""
    return None if math.isnan(figure) else figure


def _mean(figures: Sequence[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return statistics.fmean(known) if len(known) == len(figures) else None


def _privacy(outcomes: Sequence[Outcome], normalisation: str) -> dict[str, Any]:
    """Return the privacy statement of a run: of all federations that count together."""
    federation = outcomes[0].federation
    guarded = ProtectedUnits(
        num_examples=np.concatenate([o.federation.clients.sizes() for o in outcomes]),
        units=_count_units(outcomes),
        shards=max(Counter(federation.clients.speakers).values()),
        normalisation=normalisation,
        networked=isinstance(federation.clients, RemoteClients),
        federations=len(outcomes),
        most=_most_federations(outcomes),
    )
    return privacy_statement(federation.protocol.plan, run_spent(outcomes), guarded)


def _most_federations(outcomes: Sequence[Outcome]) -> int:
    """Return in how many federations one unit trains, at most."""
    unit = outcomes[0].federation.protocol.plan.config.unit
    trained = Counter(u for o in outcomes for u in set(o.federation.clients.units(unit)))
    return max(trained.values())


def _count_units(outcomes: Sequence[Outcome]) -> int:
    """Return how many units of the guarantee take part in a run."""
    unit = outcomes[0].federation.protocol.plan.config.unit
    sizes: dict[str, int] = {}
    for o in outcomes:
        clients = o.federation.clients
        sizes |= dict(zip(clients.units(unit), clients.sizes().tolist(), strict=True))
    return sum(sizes.values()) if unit == "utterance" else len(sizes)


def run_spent(outcomes: Sequence[Outcome]) -> SpentPrivacy:
    """Return the privacy that the federations of a run spent, alone and together."""
    plan = outcomes[0].federation.protocol.plan
    together = counted_together([o.exposures for o in outcomes], plan.config)
    exposures = largest(r for part in together for r in part.values())
    knowing = counted_together([o.known for o in outcomes if o.known is not None], plan.config)
    known = largest(r for part in knowing for r in part.values())
    # Replacing a unit's updates moves a sum twice as far as leaving them out.
    replaced = [replace(r, count=4 * r.count) for r in known]
    secret, ledger = plan.config.secret_cohorts, _ledger(outcomes)
    released = plan.config.cross_validation == "released"
    by_unit = ledger.groupby(["unit"] if released else ["federation", "unit"])["releases"].sum()
    return SpentPrivacy(
        epsilon=spent(plan, exposures),
        epsilon_one_federation=max(
            (o.epsilon for o in outcomes if o.epsilon is not None), default=None
        ),
        epsilon_known=spent(plan, known) if secret else None,
        epsilon_known_replaced=spent(plan, replaced) if secret else None,
        releases=int(by_unit.max()) if len(by_unit) else 0,
        noise_multiplier=accounted_noise(plan),
        exposures=exposures,
    )
