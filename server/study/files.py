"""Write the results of training to the run's folder."""

import json
import math
import shutil
import statistics
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save

from fedser.client.speakers.corpus_data import CorpusData
from fedser.common.files import replacing, write_text
from fedser.server.federation.federation import Outcome, Round
from fedser.server.federation.remote_clients import RemoteClients, Roster
from fedser.server.federation.scores import ModelScores
from fedser.server.privacy.accountant import accounted_noise, spent
from fedser.server.privacy.statement import ProtectedUnits, SpentPrivacy, privacy_statement
from fedser.server.strategy.replies import REASONS
from fedser.server.study.federations import CHECKPOINTS, largest_releases


def write_training(
    folder: Path,
    data: CorpusData | Roster,
    outcomes: Sequence[Outcome],
    normalisation: str,
    seconds: float,
    unprotected: Sequence[Outcome] = (),
) -> None:
    """Write the results of the private federations; their transcripts exist already.

    Files
    -----
    rounds.parquet
        One row per round.
    ledger.parquet
        One row per client and federation: how often the client's update may have left its device,
        and the unit that the client belongs to. A unit has one name in all federations.
    truth.parquet
        The speaker of each client with the speaker's attributes. Only the experimenter reads it;
        the adversary never does.
    model.safetensors
        The best model of each federation. Under ``privacy.cross_validation=evaluation`` only the
        model of the first federation.
    training.json
        Summary: utility, privacy statement and speed.

    Parameters
    ----------
    normalisation : str
        Value of the key ``normalisation``, for the privacy statement.
    seconds : float
        Duration of the training.
    unprotected : sequence of Outcome
        The same federations without the mechanism; only their UAR is written.
    """
    rounds = pd.DataFrame([round_columns(row) for outcome in outcomes for row in outcome.rounds])
    tables = {"rounds": rounds, "ledger": _ledger(outcomes), "truth": _truth(data, outcomes)}
    for name, table in tables.items():
        with replacing(folder / f"{name}.parquet") as partial:
            table.to_parquet(partial)
    with replacing(folder / "model.safetensors") as partial:
        partial.write_bytes(save(_best_models(outcomes)))
    summary = {
        **_summary(data, outcomes, unprotected, normalisation),
        "rounds_per_second": len(rounds) / rounds["seconds"].sum(),
        "seconds": seconds,
    }
    write_text(folder / "training.json", json.dumps(summary, indent=2, allow_nan=False))
    remove_checkpoints(folder)


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a run; after training nothing reads them.

    An error is raised, because the state of correlated noise would stay on the disk.
    """
    with suppress(FileNotFoundError):
        shutil.rmtree(folder / CHECKPOINTS)


def round_columns(row: Round) -> dict[str, Any]:
    """Return one row of ``rounds.parquet``, with one column per reason of a rejected update."""
    fields = asdict(row)
    counts = fields.pop("rejections")
    return fields | {f"rejected_{reason}": counts.get(reason, 0) for reason in REASONS}


def _summary(
    data: CorpusData | Roster,
    outcomes: Sequence[Outcome],
    unprotected: Sequence[Outcome],
    normalisation: str,
) -> dict[str, Any]:
    """Return the results of training without durations, for ``training.json``."""
    return {
        "corpus": data.summary(),
        "clients": len(data.speakers) * data.shards,
        "speakers": len(data.speakers),
        "utility": _utility(data, outcomes, unprotected),
        "privacy": _privacy(outcomes, normalisation),
    }


def _best_models(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the arrays of the best models that are released, named ``foldF.PARAMETER``."""
    privacy = outcomes[0].federation.protocol.plan.config
    released = outcomes if privacy.cross_validation == "released" else outcomes[:1]
    return {
        f"fold{outcome.federation.fold}.{name}": array
        for outcome in released
        for name, array in (outcome.best_arrays or {}).items()
    }


def _ledger(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return how often each client's update may have left its device, one row per client."""
    rows = []
    for outcome in outcomes:
        federation = outcome.federation
        units = federation.clients.units(federation.protocol.plan.config.unit)
        rows += [
            {
                "federation": federation.name,
                "client": client,
                "unit": units[client],
                "releases": count,
            }
            for client, count in sorted(outcome.releases.items())
        ]
    return pd.DataFrame(rows, columns=["federation", "client", "unit", "releases"])


def _truth(data: CorpusData | Roster, outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Return the speaker of each client and the speaker's attributes, one row per client."""
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


def _utility(
    data: CorpusData | Roster, outcomes: Sequence[Outcome], unprotected: Sequence[Outcome]
) -> dict[str, Any]:
    """Return the scores of each fold on its test speakers, and their means."""
    per_fold: list[dict[str, Any]] = []
    for outcome in outcomes:
        scores = outcome.best_scores
        assert scores is not None  # every private federation is evaluated
        trained_on = set(outcome.federation.clients.speakers)
        per_fold.append(
            {
                "fold": outcome.federation.fold,
                "uar": _none_if_nan(scores.test_uar),
                "accuracy": _none_if_nan(scores.test_accuracy),
                "best_round": outcome.best_round,
                "validation_uar": _none_if_nan(scores.validation_uar),
                "confusion": scores.confusion.tolist(),
                "test_speakers": [s for s in data.speakers if s not in trained_on],
            }
        )
    return {
        "uar": _mean([fold["uar"] for fold in per_fold]),
        "public_uar": _mean_uar([outcome.public_scores for outcome in outcomes]),
        "unprotected_uar": _mean_uar([outcome.best_scores for outcome in unprotected]),
        "accuracy": _mean([fold["accuracy"] for fold in per_fold]),
        "best_round": int(statistics.median_low(outcome.best_round for outcome in outcomes)),
        "per_fold": per_fold,
    }


def _mean_uar(scores: Sequence[ModelScores | None]) -> float | None:
    return _mean([_none_if_nan(s.test_uar) if s else None for s in scores])


def _none_if_nan(score: float) -> float | None:
    """Return None for NaN: no node reported this score."""
    return None if math.isnan(score) else score


def _mean(scores: Sequence[float | None]) -> float | None:
    """Return the mean, or None if there is no score or that of a fold is missing."""
    known = [score for score in scores if score is not None]
    return statistics.fmean(known) if known and len(known) == len(scores) else None


def _privacy(outcomes: Sequence[Outcome], normalisation: str) -> dict[str, Any]:
    """Return the privacy statement of a run, over all federations that count together."""
    federation = outcomes[0].federation
    protected = ProtectedUnits(
        num_examples=np.concatenate([o.federation.clients.sizes() for o in outcomes]),
        units=_count_units(outcomes),
        shards=max(Counter(federation.clients.speakers).values()),
        normalisation=normalisation,
        networked=isinstance(federation.clients, RemoteClients),
        public_start=federation.start is not None,
        federations=len(outcomes),
        most=_most_federations(outcomes),
    )
    return privacy_statement(federation.protocol.plan, _spent_privacy(outcomes), protected)


def _most_federations(outcomes: Sequence[Outcome]) -> int:
    """Return the largest number of federations that one unit trains in."""
    unit = outcomes[0].federation.protocol.plan.config.unit
    trained = Counter(u for o in outcomes for u in set(o.federation.clients.units(unit)))
    return max(trained.values())


def _count_units(outcomes: Sequence[Outcome]) -> int:
    """Return how many units of the guarantee take part in a run."""
    unit = outcomes[0].federation.protocol.plan.config.unit
    sizes: dict[str, int] = {}
    for outcome in outcomes:
        clients = outcome.federation.clients
        sizes |= dict(zip(clients.units(unit), clients.sizes().tolist(), strict=True))
    return sum(sizes.values()) if unit == "utterance" else len(sizes)


def _spent_privacy(outcomes: Sequence[Outcome]) -> SpentPrivacy:
    """Return the privacy that the federations of a run spent, each alone and all together."""
    plan = outcomes[0].federation.protocol.plan
    exposures = largest_releases([o.exposures for o in outcomes], plan.config)
    known = largest_releases([o.known for o in outcomes if o.known is not None], plan.config)
    # Replacing a unit's updates moves a sum twice as far as removing them: counts are squares.
    replaced = [replace(releases, count=4 * releases.count) for releases in known]
    secret, ledger = plan.config.secret_cohorts, _ledger(outcomes)
    together = plan.config.cross_validation == "released"
    by_unit = ledger.groupby(["unit"] if together else ["federation", "unit"])["releases"].sum()
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
