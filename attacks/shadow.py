"""Shadow federations: the adversary rehearses on corpora whose attributes it knows."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from attacks.tap import Ints
from client.errors import UserError
from client.speakers import CorpusData, join_clients, make_clients, speaker_folds
from conf.schema import StudyConfig
from server.federation import Federation
from server.privacy_config import PrivacyConfig
from server.study import NUM_FOLDS, protocol


def refuse_overlap(private: CorpusData, shadows: Sequence[CorpusData]) -> None:
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
    config: StudyConfig, shadows: Sequence[CorpusData], cache: Path
) -> list[Federation]:
    """Return the adversary's federations, run as the private ones but without a mechanism.

    Each leaves out another fold of the speakers and starts from other weights. Their
    transcripts go to the cache, named by all that determines them.
    """
    plain = protocol(config, PrivacyConfig())
    federations = []
    for number in range(config.adversary.shadow_federations):
        parts = []
        for data in shadows:
            left_out = speaker_folds(data.speakers, NUM_FOLDS, config.seed)[number % NUM_FOLDS]
            speakers = [s for s in data.speakers if s not in left_out]
            parts.append(make_clients(data, speakers, config.seed, config.normalisation))
        federation = Federation(
            name=f"shadow-{number}",
            role="shadow",
            fold=number,
            clients=join_clients(parts),
            test=None,
            protocol=plain,
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


def client_labels(
    federation: Federation, shadows: Sequence[CorpusData], attribute: str, classes: Sequence[str]
) -> Ints:
    """Return each shadow client's label, an index into `classes`, shape (N,)."""
    of = {data.name: data for data in shadows}
    clients = zip(federation.clients.corpora, federation.clients.speakers, strict=True)
    return np.array([classes.index(of[c].attributes(s)[attribute]) for c, s in clients])


def attribute_classes(shadows: Sequence[CorpusData], attribute: str) -> list[str]:
    """Return the two values that an attribute takes over the shadow speakers, sorted.

    Raises
    ------
    UserError
        If a speaker lacks the attribute, or it does not take exactly two values.
    """
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
    if len(found) != 2:
        raise UserError(
            f"adversary.attribute={attribute} takes {len(found)} value(s) over the shadow "
            f"speakers ({', '.join(sorted(found))}), two are needed: choose other shadow corpora"
        )
    return sorted(found)
