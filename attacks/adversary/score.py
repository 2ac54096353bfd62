"""Turning what was learned on one private federation: its labels play no part."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fedser.attacks.adversary.fit import FittedAttack, ShadowFederation, View
from fedser.attacks.adversary.leaked_updates import choose_leaks, combine_scores, score_leaks
from fedser.attacks.adversary.own_speakers import ShadowClients, simulate_rounds
from fedser.attacks.adversary.reidentify import choose_sides
from fedser.attacks.adversary.shadow_federations import SPEAKER
from fedser.attacks.adversary.snapshot import (
    ClientSums,
    CorrelationDiscriminant,
    FeatureMap,
    Snapshot,
    first_layer,
)
from fedser.attacks.adversary.tap import pseudo_gradients, tap
from fedser.common.arrays import Bools, Floats, Ints
from fedser.conf.schema import AdversaryConfig
from fedser.server.federation.federation import Protocol
from fedser.server.transcript.transcript import Transcript

Scores = dict[str, pd.DataFrame]
Chooser = Callable[..., dict[str, Bools]]


@dataclass(frozen=True)
class ScoreTables:
    """Scores by attack: a row a draw of a client's leaked updates.

    Attributes
    ----------
    victims : dict of str to DataFrame
        ``federation``, ``client``, ``leaked``, ``draw`` and ``score_*``.
    rehearsed : dict of str to DataFrame
        The same of the adversary's own speakers, with their ``label`` and the ``group`` that
        the attacks which scored them never met.
    """

    victims: Scores
    rehearsed: Scores


def score_private(
    path: Path, fitted: Sequence[FittedAttack], view: View, config: AdversaryConfig, seed: int
) -> ScoreTables:
    """Score the victims of a private transcript with attacks that carry over."""
    rows: dict[str, list[pd.DataFrame]] = defaultdict(list)
    for seen in tap(Transcript(path), **vars(view)):
        leaks = leak_chooser(config)(seen.round, config, seed, path.name, seen.client)
        for known in fitted if any(map(len, leaks.values())) else ():
            found = score_leaks(known.attack, seen, leaks, config.combination)
            rows[known.attack.name].append(found)
    return ScoreTables(name_federation(rows, path.name), {})


def score_shadow(
    shadow: ShadowFederation,
    fitted: Sequence[FittedAttack],
    groups: Ints,
    view: View,
    config: AdversaryConfig,
    seed: int,
) -> ScoreTables:
    """Score a shadow federation's own clients, each with attacks that never met the speaker."""
    rows: dict[str, list[pd.DataFrame]] = defaultdict(list)
    for seen in tap(Transcript(shadow.folder), **vars(view)):
        leaks = choose_leaks(seen.round, config, seed, "shadow", seen.client)
        group = int(groups[shadow.speakers[seen.client]])
        for known in fitted:
            found = score_leaks(known.without[group], seen, leaks, config.combination)
            label = shadow.labels[seen.client]
            rows[known.attack.name].append(found.assign(label=label, group=group))
    return ScoreTables({}, name_federation(rows, "shadow"))


def score_at_snapshots(
    path: Path,
    protocol: Protocol,
    snapshot: Snapshot,
    cast: ShadowClients,
    groups: Ints,
    fitted: Sequence[FittedAttack],
    view: View,
    config: AdversaryConfig,
) -> ScoreTables:
    """Score the victims at the global models they started from.

    Parameters
    ----------
    groups : ndarray of int64
        Group of each speaker; empty where nothing is to be rehearsed.
    fitted : sequence of FittedAttack
        Attacks to simulate_rounds beside this one.
    """
    transcript, lens = Transcript(path), FeatureMap(cast, snapshot.components)
    group = groups[cast.speakers] if len(groups) else np.zeros(len(cast), dtype=np.int64)
    victims, own = ClientSums.of(transcript.meta.num_clients), ClientSums.of(len(cast))
    heard: dict[str, list[list[Floats]]] = {f.attack.name: [[] for _ in group] for f in fitted}
    for scene in simulate_rounds(transcript, protocol, cast, snapshot.asked):
        response = lens.response(scene.cast, first_layer(scene.plain))
        seen = first_layer(pseudo_gradients(transcript.meta, scene.victims))
        victims.add(scene.round, scene.victims.client, seen, response)
        own.add(scene.round, scene.cast, first_layer(scene.sent), response)
        for known in fitted:
            sent = {name: scene.sent[name] for name in view.parameters}
            scores = known.score_held_out(sent, group[scene.cast])
            for one, found in zip(scene.cast.tolist(), scores, strict=True):
                heard[known.attack.name][one].append(found)

    rehearsal = replace(config, draws=snapshot.draws)
    of_cast = _leaks(own, choose_leaks, rehearsal, protocol.seed, path.name, "cast")
    of_victims = _leaks(victims, leak_chooser(config), config, protocol.seed, path.name, "victims")
    rehearsed = {
        name: [
            combine_scores(one, np.stack(of[one]), drawn, config.combination).assign(
                label=cast.labels[one], group=group[one]
            )
            for one, drawn in of_cast.items()
        ]
        for name, of in heard.items()
    }
    found = defaultdict[str, list[pd.DataFrame]](list)
    for leaked in map(str, config.leaked_updates):
        drawn = own.estimates(of_cast, leaked, lens.prior)
        labels, whose = cast.labels[drawn.client], group[drawn.client]
        resemblance = CorrelationDiscriminant(drawn, labels, whose, int(cast.labels.max()) + 1)
        for left_out in np.unique(whose).tolist() if len(groups) else ():
            rows = whose == left_out
            scored = drawn.rows(resemblance.score(drawn.columns[rows], left_out), rows)
            found["own"].append(scored.assign(label=labels[rows], group=left_out))
        judged = victims.estimates(of_victims, leaked, lens.prior)
        found["victims"].append(judged.rows(resemblance.score(judged.columns)))
    if len(groups):
        rehearsed[snapshot.name] = found["own"]
    return ScoreTables(
        name_federation({snapshot.name: found["victims"]}, path.name),
        name_federation(rehearsed, path.name),
    )


def join_scores(parts: Sequence[Scores]) -> Scores:
    """Put the scores of several federations together, by attack."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {
        name: pd.concat([part[name] for part in parts if name in part], ignore_index=True)
        for name in names
    }


def _leaks(
    evidence: ClientSums, choose: Chooser, config: AdversaryConfig, seed: int, *name: str
) -> dict[int, dict[str, Bools]]:
    """Choose which updates leak of each client that evidence is of."""
    return {
        who: choose(np.array(rounds), config, seed, *name, who)
        for who, rounds in enumerate(evidence.rounds)
        if rounds
    }


def leak_chooser(config: AdversaryConfig) -> Chooser:
    """Return how the updates of a victim that leak are chosen."""
    return choose_sides if config.attribute == SPEAKER else choose_leaks


def name_federation(rows: Mapping[str, list[pd.DataFrame]], federation: str) -> Scores:
    """Put the scores of a federation's clients together, by attack."""
    return {
        name: pd.concat(parts, ignore_index=True).assign(federation=federation)
        for name, parts in rows.items()
    }
