"""Shadow federations: the adversary trains speakers of its own, whose attributes it knows."""

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
from fedser.server.study.federations import protocol, with_step

SPEAKER = "speaker"
"""The attribute with one value per speaker, for re-identification."""


def reject_overlap(private: CorpusData | Roster, shadows: Sequence[CorpusData]) -> None:
    """Reject shadow corpora that hold recordings of the victims.

    Raises
    ------
    UserError
        If a shadow corpus holds a private recording, under any name.
    """
    for shadow in shadows:
        if shared := set(private.digests) & set(shadow.digests):
            raise UserError(
                f"shadow: {shadow.name} shares {len(shared)} recording(s) with the private corpus "
                f"{private.name}; the adversary must not hold victims' speech: set other corpora"
            )


def shadow_federations(
    config: StudyConfig, shadows: Sequence[CorpusData], plan: PrivacyPlan, cache: Path
) -> list[Federation]:
    """Return the adversary's federations, which run like the private federations.

    Each one leaves out another fold of the speakers, and starts from other weights unless a
    public model gives them. The transcripts go to the cache. The name of a transcript depends on
    everything that determines it.

    Parameters
    ----------
    plan : PrivacyPlan
        Plan of the private federations. Shadow federations follow it if ``adversary.aware`` is
        set. Otherwise no mechanism protects their updates.
    """
    kept = replace(config.transcript, store="updates")  # attacks read them several times
    plain = protocol(replace(config, transcript=kept), PrivacyConfig())
    plain = replace(plain, algorithm=with_step(config.algorithm, plan))
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
            start=shadows[0].public.head if shadows[0].public else None,
        )
        federations.append(replace(federation, folder=cache / "shadow" / federation.digest))
    return federations


def missing(federations: Sequence[Federation]) -> list[Federation]:
    """Return the federations without a transcript in the cache, with a temporary folder each."""
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
    """Return a plan for other numbers of clients with the same noise.

    Without masks and encryption: the adversary knows the updates of its own speakers anyway.
    """
    # The noise of shadow speakers protects nobody, so it can be reproducible.
    if plan.config.spec.guaranteed:
        plan = plan.with_noise(noise_multiplier=plan.noise_multiplier)
    config, rate = replace(plan.config, stop_at_epsilon=None, reproducible_noise=True), 0.0
    if config.aggregation is not None:
        config = replace(config, aggregation="plain")
    if config.spec.noise_at == "shares":
        rate = min(1.0, 2 / num_clients)  # a sum needs two clients
    rate = max(plan.sampling_rate, rate)
    return replace(plan, config=config, num_clients=num_clients, sampling_rate=rate)


def speaker_names(shadows: Sequence[CorpusData]) -> list[str]:
    """Return the names of the shadow speakers of all corpora, as corpus/speaker."""
    return [f"{data.name}/{speaker}" for data in shadows for speaker in data.speakers]


def speaker_labels(shadows: Sequence[CorpusData], attribute: str, classes: Sequence[str]) -> Ints:
    """Return the label of each of the S shadow speakers, an index into `classes`, (S,)."""
    if attribute == SPEAKER:
        return np.arange(len(classes))
    values = [data.attributes(speaker)[attribute] for data in shadows for speaker in data.speakers]
    return np.array([classes.index(value) for value in values])


def speaker_numbers(clients: Clients | RemoteClients, shadows: Sequence[CorpusData]) -> Ints:
    """Return the number of each client's speaker among the shadow speakers, (N,)."""
    names = speaker_names(shadows)
    return np.array([names.index(unit) for unit in clients.units("speaker")])


def attribute_classes(shadows: Sequence[CorpusData], attribute: str) -> list[str]:
    """Return the sorted values of an attribute over the shadow speakers.

    Raises
    ------
    UserError
        If a speaker lacks the attribute, or if there are fewer than two values.
    """
    if attribute == SPEAKER:
        return speaker_names(shadows)
    found = set()
    for data in shadows:
        for speaker in data.speakers:
            attributes = data.attributes(speaker)
            if attribute not in attributes:
                raise UserError(
                    f"adversary.attribute={attribute}: corpus {data.name} lacks it for speaker "
                    f"{speaker}; set one of its attributes: {', '.join(attributes) or 'none'}"
                )
            found.add(attributes[attribute])
    if len(found) < 2:
        raise UserError(
            f"adversary.attribute={attribute} takes {len(found)} value(s) over the shadow "
            f"speakers ({', '.join(found)}), two are needed: set other corpora in shadow"
        )
    return sorted(found)
