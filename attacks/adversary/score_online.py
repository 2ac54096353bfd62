"""Attacks that read each update as it passes the tap, so that no update has to be kept."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fedser.attacks.adversary.leaked_updates import read_update, score_numbers
from fedser.attacks.adversary.prepare import LayerAttacks, PreparedAttacks, number_name
from fedser.attacks.adversary.score import ScoreTables, leak_chooser, name_federation
from fedser.attacks.adversary.tap import pseudo_gradients, refuse_empty
from fedser.attacks.algorithms.base import Attack
from fedser.common.arrays import Floats
from fedser.conf.schema import AdversaryConfig, StudyConfig
from fedser.server.federation.federation import Federation
from fedser.server.study.federations import parameter_names
from fedser.server.transcript.transcript import RecordedUpdates, Transcript, TranscriptMeta

BLOCK = 16
"""Updates that are read at a time."""


@dataclass(frozen=True)
class OnlineReader:
    """Reads the updates of one federation: a `server.transcript.transcript.Reader`.

    Attributes
    ----------
    attacks : dict of str to (Attack, sequence of str)
        By name of the numbers: a fitted attack, and the parameters that it looks at.
    """

    numbers: dict[str, str]
    meta: TranscriptMeta
    attacks: Mapping[str, tuple[Attack, Sequence[str]]]
    combination: str

    def __call__(
        self, server_round: int, model: Mapping[str, Floats], releases: RecordedUpdates
    ) -> dict[str, Floats]:
        """Return every attack's numbers (k, p) of a round's k > 0 releases."""
        wanted = {name for _, parameters in self.attacks.values() for name in parameters}
        found: dict[str, list[Floats]] = defaultdict(list)
        for start in range(0, len(releases), BLOCK):
            rows = slice(start, start + BLOCK)
            part = RecordedUpdates(
                releases.round[rows],
                releases.client[rows],
                releases.num_examples[rows],
                {name: releases.arrays[name][rows] for name in wanted},
            )
            gradients = pseudo_gradients(self.meta, part)
            for name, (attack, parameters) in self.attacks.items():
                seen = {parameter: gradients[parameter] for parameter in parameters}
                found[name].append(read_update(attack, seen, self.combination))
        return {name: np.concatenate(parts).astype(np.float32) for name, parts in found.items()}


def with_readers(
    config: StudyConfig, learned: PreparedAttacks, federations: Sequence[Federation]
) -> list[Federation]:
    """Return private federations whose updates are read by what the adversary learned."""
    attacks = {
        number_name(known.attack.name, lesson.layers): (known.attack, lesson.view.parameters)
        for lesson in learned.lessons
        for known in lesson.fitted
    }
    numbers, combination = learned.numbers, config.adversary.combination
    metas = [f.transcript_meta(parameter_names(config)) for f in federations]
    return [
        replace(f, reader=OnlineReader(numbers, meta, attacks, combination))
        for f, meta in zip(federations, metas, strict=True)
    ]


def score_stored_numbers(
    path: Path, lesson: LayerAttacks, config: AdversaryConfig, seed: int
) -> ScoreTables:
    """Score the victims of a private transcript by the numbers that were kept of their updates.

    What it returns is what `attacks.adversary.score.score_private` would return of the updates.
    """
    rows: dict[str, list[pd.DataFrame]] = defaultdict(list)
    names = [number_name(known.attack.name, lesson.layers) for known in lesson.fitted]
    transcript = Transcript(path)
    for kept in refuse_empty(transcript.of_clients(names), transcript.meta):
        client = int(kept.client[0])
        leaks = leak_chooser(config)(kept.round, config, seed, path.name, client)
        for name, known in zip(names, lesson.fitted, strict=True):
            if any(map(len, leaks.values())):
                numbers = kept.arrays[name]
                found = score_numbers(known.attack, client, numbers, leaks, config.combination)
                rows[known.attack.name].append(found)
    return ScoreTables(name_federation(rows, path.name), {})
