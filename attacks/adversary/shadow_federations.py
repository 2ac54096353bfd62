"""Shadow federations: the adversary rehearses on corpora whose attributes it knows."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedser.client.speakers.clients import Clients, join_clients, make_clients, speaker_folds
from fedser.client.speakers.corpus_data import CorpusData
from fedser.common.arrays import Ints
from fedser.common.errors import UserError
from fedser.conf.privacy_keys import PrivacyConfig
from fedser.conf.schema import StudyConfig
from fedser.conf.values import NUM_FOLDS
from fedser.server.federation.federation import Federation
from fedser.server.federation.remote_clients import RemoteClients, Roster
from fedser.server.privacy.plan import PrivacyPlan
from fedser.server.study.federations import protocol

SPEAKER = "speaker"
"""The attribute that is each speaker's own: re-identification."""


def refuse_overlap(private: CorpusData | Roster, shadows: Sequence[CorpusData]) -> None:
    """Make sure that the adversary's recordings are not the victims' own.

    Raises
    ------
    UserError
        If a shadow corpus holds a private recording, under whatever name.
    """
    for shadow in shadows:
        if shared := set(private.digests) & set(shadow.digests):
            raise UserError(
                f"shadow: {shadow.name} shares {len(shared)} recording(s) with the private corpus "
                f"{private.name}; the adversary must not hold victims' speech: choose others"
            )


def shadow_federations(
    config: StudyConfig, shadows: Sequence[CorpusData], plan: PrivacyPlan, cache: Path
) -> list[Federation]:
    """Return the adversary's federations, run as the private ones.

    Each leaves out another fold of the speakers and starts from other weights. Their
    transcripts go to the cache, named by all that determines them.

    Parameters
    ----------
    plan : PrivacyPlan
        That of the private federations. They follow it with ``adversary.aware``; without, no
        mechanism protects their updates.
    """
    kept = replace(config.transcript, store="updates")  # to learn from, again and again
    plain = protocol(replace(config, transcript=kept), PrivacyConfig())
    federations = []
    for number in range(config.adversary.shadow_federations):
        parts = []
        for data in shadows:
            left_out = speaker_folds(data.speakers, NUM_FOLDS, config.seed)[number % NUM_FOLDS]
            speakers = [s for s in data.speakers if s not in left_out]
            parts.append(make_clients(data, speakers, config.seed, config.normalisation))
        clients = join_clients(parts)
        own = _same_noise(plan, len(clients)) if config.adversary.aware else plain.plan
        federation = Federation(
            name=f"shadow-{number}",
            role="shadow",
            fold=number,
            clients=clients,
            test=None,
            protocol=replace(plain, plan=own),
            folder=cache,
        )
        federations.append(replace(federation, folder=cache / "shadow" / federation.digest))
    return federations


def missing(federations: Sequence[Federation]) -> list[Federation]:
    """Return those whose transcript is not in the cache, set to be written beside it."""
    absent = [f for f in federations if not f.folder.exists()]
    return [replace(f, folder=f.folder.with_suffix(f".{os.getpid()}.part")) for f in absent]


def keep(trained: Sequence[Federation]) -> None:
    """Move complete transcripts to their place in the cache."""
    for federation in trained:
        target = federation.folder.with_suffix("").with_suffix("")
        try:
            os.replace(federation.folder, target)
        except OSError:  # another run was faster
            shutil.rmtree(federation.folder)


def _same_noise(plan: PrivacyPlan, num_clients: int) -> PrivacyPlan:
    """Return a plan whose clients add what those of the given one do, however many they are."""
    # Shadow speakers are the adversary's own: their noise protects nobody and is reproducible.
    config = replace(plan.config, stop_at_epsilon=None, reproducible_noise=True)
    if config.spec.guaranteed:
        config = replace(config, epsilon=None, noise_multiplier=plan.noise_multiplier)
    return replace(plan, config=config, num_clients=num_clients)


def speaker_names(shadows: Sequence[CorpusData]) -> list[str]:
    """Return the adversary's speakers over all its corpora."""
    return [f"{data.name}/{speaker}" for data in shadows for speaker in data.speakers]


def speaker_labels(shadows: Sequence[CorpusData], attribute: str, classes: Sequence[str]) -> Ints:
    """Return the label of each of the adversary's S speakers, an index into `classes`, (S,)."""
    if attribute == SPEAKER:
        return np.arange(len(classes))
    of = [data.attributes(speaker)[attribute] for data in shadows for speaker in data.speakers]
    return np.array([classes.index(value) for value in of])


def speaker_numbers(clients: Clients | RemoteClients, shadows: Sequence[CorpusData]) -> Ints:
    """Return which of the adversary's speakers each client is, (N,)."""
    names = speaker_names(shadows)
    return np.array([names.index(unit) for unit in clients.units("speaker")])


def whole_speakers(shadows: Sequence[CorpusData], seed: int, normalisation: str) -> Clients:
    """Return one client for each of the adversary's speakers."""
    return join_clients(
        [make_clients(replace(d, shards=1), d.speakers, seed, normalisation) for d in shadows]
    )


def attribute_classes(shadows: Sequence[CorpusData], attribute: str) -> list[str]:
    """Return the values that an attribute takes over the shadow speakers, sorted.

    Raises
    ------
    UserError
        If a speaker lacks the attribute, or it takes fewer than two values.
    """
    if attribute == SPEAKER:
        return speaker_names(shadows)
    found = set()
    for data in shadows:
        for speaker in data.speakers:
            attributes = data.attributes(speaker)
            if attribute not in attributes:
                raise UserError(
                    f"adversary.attribute={attribute}: corpus {data.name} does not say it of "
                    f"speaker {speaker}; known there: {', '.join(attributes) or 'nothing'}"
                )
            found.add(attributes[attribute])
    if len(found) < 2:
        raise UserError(
            f"adversary.attribute={attribute} takes {len(found)} value(s) over the shadow "
            f"speakers ({', '.join(found)}), two are needed: choose other shadow corpora"
        )
    return sorted(found)
