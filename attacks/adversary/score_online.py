"""Read the features of each update during training, so that no update must be stored."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fedser.attacks.adversary.leaked_updates import read_values, score_values
from fedser.attacks.adversary.prepare import LayerAttacks, PreparedAttacks, stored_name
from fedser.attacks.adversary.score import ScoreTables, leak_chooser, name_federation
from fedser.attacks.adversary.tap import pseudo_gradients, reject_empty
from fedser.attacks.algorithms.base import Attack
from fedser.common.arrays import Floats
from fedser.conf.schema import AdversaryConfig, StudyConfig
from fedser.server.federation.federation import Federation
from fedser.server.study.federations import parameter_names
from fedser.server.transcript.transcript import RecordedUpdates, Transcript, TranscriptMeta

BLOCK = 16
"""Number of updates to read at a time."""


@dataclass(frozen=True)
class OnlineReader:
    """Reads the updates of one federation: a `server.transcript.transcript.Reader`.

    Attributes
    ----------
    numbers : dict of str to str
        As in `PreparedAttacks`.
    meta : TranscriptMeta
    attacks : dict of str to (Attack, sequence of str)
        By name of the features: a fitted attack, and the parameters that it looks at.
    combination : str
        As in ``adversary.combination``: ``statistics`` or ``log_odds``.
    """

    numbers: dict[str, str]
    meta: TranscriptMeta
    attacks: Mapping[str, tuple[Attack, Sequence[str]]]
    combination: str

    def __call__(
        self, server_round: int, model: Mapping[str, Floats], releases: RecordedUpdates
    ) -> dict[str, Floats]:
        """Return the values (k, p) of every attack for the k > 0 updates of a round."""
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
                found[name].append(read_values(attack, seen, self.combination))
        return {name: np.concatenate(parts).astype(np.float32) for name, parts in found.items()}


def with_readers(
    config: StudyConfig, prepared: PreparedAttacks, federations: Sequence[Federation]
) -> list[Federation]:
    """Return the private federations with readers, which read updates for the prepared attacks."""
    attacks = {
        stored_name(fitted.attack.name, of_layers.layers): (
            fitted.attack,
            of_layers.view.parameters,
        )
        for of_layers in prepared.layer_attacks
        for fitted in of_layers.fitted
    }
    numbers, combination = prepared.numbers, config.adversary.combination
    metas = [f.transcript_meta(parameter_names(config)) for f in federations]
    return [
        replace(f, reader=OnlineReader(numbers, meta, attacks, combination))
        for f, meta in zip(federations, metas, strict=True)
    ]


def score_stored_values(
    path: Path, attacks: LayerAttacks, config: AdversaryConfig, seed: int
) -> ScoreTables:
    """Score the victims of a private transcript by the values that were stored of their updates.

    The result is the same as that of `attacks.adversary.score.score_private` on the updates.
    """
    rows: dict[str, list[pd.DataFrame]] = defaultdict(list)
    names = [stored_name(fitted.attack.name, attacks.layers) for fitted in attacks.fitted]
    transcript = Transcript(path)
    for kept in reject_empty(transcript.of_clients(names), transcript.meta):
        client = int(kept.client[0])
        leaks = leak_chooser(config)(kept.round, config, seed, path.name, client)
        for name, fitted in zip(names, attacks.fitted, strict=True):
            if any(map(len, leaks.values())):
                values = kept.arrays[name]
                found = score_values(fitted.attack, client, values, leaks, config.combination)
                rows[fitted.attack.name].append(found)
    return ScoreTables(name_federation(rows, path.name), {})
